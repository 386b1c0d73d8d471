# First: it handles Ctrl-C, also during the other imports.
import data  # noqa: F401
