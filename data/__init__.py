"""Files, images, text and annotations. Commands import this package first: it handles Ctrl-C in their other imports."""

from data.processes import interrupts

if interrupts.is_our_command():
    interrupts.install()
