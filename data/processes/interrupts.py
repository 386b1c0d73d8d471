"""Ctrl-C: a command ends with one line and status 130, wherever in its work the interrupt arrives.

Python raises KeyboardInterrupt between any two instructions of the main thread. In functions that Python calls by
itself (`__del__`, callbacks of weak references and of the garbage collector, `os.register_at_fork`, `atexit`), it
prints the exception and discards it, and the command would continue. Here, a discarded interrupt is raised again a
moment later, and one that other code has caught still decides the exit status.
"""

import atexit
import os
import signal
import sys
from types import FrameType, TracebackType

STATUS = 130
_SECONDS_UNTIL_RAISED_AGAIN = 0.001
_SECONDS_BETWEEN_SIGNALS = 1.0
_ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))


class _Interrupts:
    """The interrupts of this process.

    process     its id; forked processes inherit the handler, but ignore Ctrl-C: their parent ends them
    received    whether there was one
    discarding  whether Python is discarding one
    ending      whether the work is over, and only the end of the interpreter is left
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self.received = self.discarding = self.reported = self.ending = False

    def handle(self, number: int, _: FrameType | None) -> None:
        """Raise KeyboardInterrupt; the handler of SIGINT, and of SIGALRM for an interrupt that is raised again."""
        if os.getpid() != self.process:
            return
        if self.ending:
            if number == signal.SIGINT and self.received:  # the end hangs
                os._exit(STATUS)
            self.received = True
            return
        self.received = True
        if self.discarding:
            self.raise_again()
            return
        if number == signal.SIGALRM:
            signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt

    def raise_again(self) -> None:
        """Raise the interrupt in a moment. Unlike a thread, a timer is not inherited by forked processes.

        The signal is repeated until it is handled: one that arrives between Python's last look at signals and a system
        call that blocks does not wake that call. It is repeated slowly, as each signal restarts a `fork` in progress.
        """
        signal.signal(signal.SIGALRM, self.handle)
        signal.setitimer(signal.ITIMER_REAL, _SECONDS_UNTIL_RAISED_AGAIN, _SECONDS_BETWEEN_SIGNALS)

    def report(self) -> None:
        """Print the line, once."""
        if not self.reported:
            self.reported = True
            print("Interrupted", file=sys.stderr)


_interrupts = _Interrupts()


def is_our_command() -> bool:
    """Whether a command of this repository runs; a program that imports its packages keeps its own handling."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    if file is None:
        return sys.argv[:1] == ["-m"]  # python -m data.NAME imports the package before it knows the file
    file = os.path.realpath(file)
    return file.startswith(_ROOT + os.sep) and not file.startswith(os.path.realpath(sys.prefix) + os.sep)


def install() -> None:
    """Handle Ctrl-C in this process, unless it was started to ignore it. Has no effect if it is handled already."""
    global _interrupts
    handler = signal.getsignal(signal.SIGINT)
    if handler == signal.SIG_IGN or (handler == _interrupts.handle and _interrupts.process == os.getpid()):
        return
    _interrupts = _Interrupts()
    signal.signal(signal.SIGINT, _interrupts.handle)
    sys.unraisablehook = _raise_discarded
    sys.excepthook = _report_uncaught
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # runs last; Python then restores the default action


def received() -> bool:
    """Whether there was an interrupt, even if other code has caught it."""
    return _interrupts.received


def report() -> None:
    """Print one line about the interrupt, unless it has been printed."""
    _interrupts.report()


def end() -> None:
    """Raise no more interrupts: the work is over. A further Ctrl-C ends the process only if its end hangs."""
    _interrupts.ending = True


def _raise_discarded(unraisable: "sys.UnraisableHookArgs") -> None:
    """The `sys.unraisablehook`."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    _interrupts.discarding = True  # an interrupt in this function would be printed
    _interrupts.raise_again()
    _interrupts.discarding = False


def _report_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The `sys.excepthook`. An error after an interrupt is a consequence, such as that of a half-imported library."""
    if not (issubclass(kind, KeyboardInterrupt) or _interrupts.received):
        sys.__excepthook__(kind, error, trace)
        return
    end()
    report()
    raise SystemExit(STATUS)
