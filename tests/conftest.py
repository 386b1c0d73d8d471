"""Settings of all tests."""

from hypothesis import settings

# No deadline per example: on a busy machine, its duration says nothing about the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
