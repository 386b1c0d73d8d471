"""Runs functions in a process of their own, which a time limit can end and replace.

A thread that decodes a hostile image cannot be stopped; a process can.
"""

import multiprocessing
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from data.errors import UserError

# Workers are forked from a server that has imported these modules, so that a replacement starts quickly. The server
# itself is started by exec: forking a process with threads can deadlock.
_PRELOADED = ["modules.inference.predictor"]
_SECONDS_TO_START = 300.0


class WorkerError(Exception):
    """A function failed in the worker with an error that is not the user's. The message is the worker's traceback."""


class WorkerProcess:
    """A process that holds an object and runs functions of it, one at a time.

    The object is built in the process. If a function takes too long or the process dies, the process is replaced, and
    the object is built again.
    """

    def __init__(self, build: Callable[[], Any], seconds: float, seconds_to_wait: float):
        """Start the process and wait until the object is built. Raises UserError or WorkerError if that fails.

        build            returns the object; must be picklable
        seconds          that a function may take
        seconds_to_wait  that a call waits for its turn
        """
        self._build = build
        self._seconds = seconds
        self._seconds_to_wait = seconds_to_wait
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)
        self._turn = threading.Lock()
        self._closed = False
        self._start()
        try:
            self._wait_until_built()
        except BaseException:
            self.close()
            raise

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return `function(object, *arguments)`, computed in the process. All of it must be picklable.

        Raises UserError if the function raises it, takes too long, or the process dies; WorkerError if the function
        raises anything else.
        """
        if not self._turn.acquire(timeout=self._seconds_to_wait):
            raise UserError(f"The server was busy for more than {self._seconds_to_wait:g} seconds: try again")
        try:
            if not self._process.is_alive():
                self._replace()
            self._wait_until_built()
            self._connection.send_bytes(pickle.dumps((function, arguments)))
            return self._receive(self._seconds)
        except TimeoutError:
            self._replace()
            raise UserError(
                f"The report took more than {self._seconds:g} seconds: try again, or use a smaller image"
            ) from None
        except (EOFError, OSError):
            self._replace()
            raise UserError("The report could not be generated, because its process ended: use another image") from None
        finally:
            self._turn.release()

    def close(self) -> None:
        """End the process at once, whatever it does."""
        self._closed = True
        self._end()

    def _start(self) -> None:
        self._connection, child = self._context.Pipe()
        self._process = self._context.Process(
            target=_serve, args=(child, pickle.dumps(self._build)), name="worker", daemon=True
        )
        self._process.start()
        child.close()
        self._built = False

    def _wait_until_built(self) -> None:
        if not self._built:
            try:
                self._receive(_SECONDS_TO_START)
            except UserError:
                raise
            except (EOFError, OSError, TimeoutError) as error:
                raise UserError("The model could not be loaded: its process ended, or took too long") from error
            self._built = True

    def _receive(self, seconds: float) -> Any:
        """Return the next result of the process, or raise its error. Raises TimeoutError if there is none in time."""
        if not self._connection.poll(seconds):
            raise TimeoutError
        result, error = pickle.loads(self._connection.recv_bytes())
        if error is not None:
            raise error
        return result

    def _replace(self) -> None:
        self._end()
        if not self._closed:
            self._start()

    def _end(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


def _serve(connection: Connection, build: bytes) -> None:
    """Build the object and run functions until the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes, but the parent ends this one
    built, error = _outcome(lambda: pickle.loads(build)())
    try:
        connection.send_bytes(pickle.dumps((None, error)))
        while error is None:
            request = connection.recv_bytes()

            def run(request: bytes = request) -> Any:
                function, arguments = pickle.loads(request)
                return function(built, *arguments)

            connection.send_bytes(pickle.dumps(_outcome(run)))
    except (EOFError, OSError):  # the parent has ended
        return


def _outcome(function: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """Return what `function` returns and None, or None and its error."""
    try:
        return function(), None
    except UserError as error:
        return None, UserError(*error.args)
    except Exception:
        return None, WorkerError(traceback.format_exc())
