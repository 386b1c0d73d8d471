"""Checks the events that pages send, before Gradio sees them.

Gradio fetches a file whose path is a URL, and reads one whose path it knows. So an event may contain no file: an upload
is named by its token, and everything else that the page needs is in this process.
"""

import json
import time
from asyncio import Queue
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import gradio as gr
from gradio.utils import LRUCache

from modules.inference.demo import limits
from modules.inference.demo.uploads import UploadStore

_MAX_SESSION_LENGTH = 64


class UnreadMessages(LRUCache):
    """The messages to pages that did not read them yet, by session.

    Gradio deletes the messages of a page that was closed, and fails if it then sends another one. Here that message is
    dropped.
    """

    def __init__(self) -> None:
        super().__init__(limits.MAX_PAGES)

    def __missing__(self, session: str) -> Queue:
        return Queue()

    def __delitem__(self, session: str) -> None:
        if session in self:
            super().__delitem__(session)


class PageEvents:
    """The events of a page, and the sessions that send them."""

    def __init__(self, page: gr.Blocks, uploads: UploadStore):
        self._page = page
        self._queue = page._queue
        self._queue.pending_messages_per_session = UnreadMessages()
        self._uploads = uploads
        self._connections: Counter[str] = Counter()
        self._last_seen: dict[str, float] = {}
        # Number of an event -> for each of its inputs, whether it is an upload.
        self._inputs = {
            number: [isinstance(component, gr.File) for component in function.inputs]
            for number, function in page.fns.items()
            if not any(target[1] == "unload" for target in function.targets)
        }

    def check(self, body: bytes) -> tuple[int, str | bytes]:
        """Return 200 and the body for Gradio, or another status and the reason why the event is rejected."""
        try:
            event = json.loads(body)
            number, session, values = event["fn_index"], event["session_hash"], event["data"]
            is_upload = self._inputs[number]
        except (ValueError, KeyError, TypeError, RecursionError):
            return 400, "The event is malformed"
        if not (isinstance(session, str) and 0 < len(session) <= _MAX_SESSION_LENGTH and session.isalnum()):
            return 400, "The event has no valid session"
        if not isinstance(values, list) or len(values) != len(is_upload):
            return 400, "The event has another number of inputs"
        if self._unread(session) > limits.MAX_UNREAD_MESSAGES:
            return 429, "The page has not read the results of its earlier requests"
        tokens = []
        for value, takes_upload in zip(values, is_upload, strict=True):
            token = value.get("path") if takes_upload and isinstance(value, Mapping) else None
            if value is not None and not (isinstance(token, str) and self._uploads.claim(token, session)):
                return 400, "The event contains a file that was not uploaded, or was removed: upload it again"
            tokens.append(token)
        self._last_seen[session] = time.monotonic()
        checked = {
            "fn_index": number, "session_hash": session, "data": tokens, "event_data": event.get("event_data"),
            "trigger_id": None,
        }
        return 200, json.dumps(checked).encode()

    @contextmanager
    def connected(self, session: str, is_page: bool = False) -> Iterator[None]:
        """Keep what belongs to `session` within the context, in which it holds a connection.

        is_page: the connection lasts as long as the page is open, so nothing of the session is needed after it
        """
        self._connections[session] += 1
        try:
            yield
        finally:
            self._connections[session] -= 1
            if not self._connections[session]:
                del self._connections[session]
            if is_page:
                self._last_seen.pop(session, None)
            elif session in self._last_seen:
                self._last_seen[session] = time.monotonic()

    def remove_closed_sessions(self) -> None:
        """Remove the studies and messages of closed pages, and of sessions without a connection in the last minute.

        Gradio does that once when a page is closed, but not for a report that is finished later, nor for a client that
        never held the connection of a page.
        """
        states, messages = self._page.state_holder.session_data, self._queue.pending_messages_per_session
        sessions = {*states, *messages, *self._queue.pending_event_ids_session, *self._last_seen}
        oldest = time.monotonic() - limits.UPLOAD_SECONDS
        for session in sessions - set(self._connections):
            if self._last_seen.get(session, oldest) <= oldest:
                for kept in (states, messages, self._queue.pending_event_ids_session, self._last_seen):
                    kept.pop(session, None)

    def has_messages(self, session: str) -> bool:
        """Whether `session` has sent an event whose messages are kept."""
        return session in self._queue.pending_messages_per_session

    def _unread(self, session: str) -> int:
        queue = self._queue.pending_messages_per_session.get(session)
        return 0 if queue is None else queue.qsize()
