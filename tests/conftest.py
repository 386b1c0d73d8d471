"""What all tests share."""

from hypothesis import settings

# A machine that is busy with other work takes its time: how long an example takes says nothing about the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
