"""Uploads of the web page: kept in memory, never on disk, and for a minute at most.

A browser uploads a file in one request, which is answered with a token. With a second request it asks for the report on
that token, and with a third it waits. Each token is used once.
"""

import secrets
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from data.errors import UserError, readable
from modules.inference.demo import limits

_MAX_NAME_LENGTH = 200


@dataclass
class Upload:
    """A file of a visitor.

    name     without folders
    expires  when it is removed, in seconds of `time.monotonic`
    session  that waits for the report on it; "" before the report is asked for
    """

    name: str
    content: bytes
    expires: float
    session: str = ""


class UploadStore:
    """The uploads that no report was generated for yet.

    An upload is removed when its report is generated, or `seconds` after its last request has ended, whatever way it
    ended: after the upload itself, or after the request that waits for the report.
    """

    def __init__(self, seconds: float = limits.UPLOAD_SECONDS, max_bytes: int = limits.MAX_UPLOADS_BYTES):
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._reserved = 0
        self._uploads: dict[str, Upload] = {}
        self._waiting: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def reserve(self, size: int) -> Iterator[bool]:
        """Reserve memory for a request of `size` bytes while it is received. Yields whether there is enough."""
        with self._lock:
            stored = sum(len(upload.content) for upload in self._uploads.values())
            fits = stored + self._reserved + size <= self._max_bytes
            self._reserved += size if fits else 0
        try:
            yield fits
        finally:
            with self._lock:
                self._reserved -= size if fits else 0

    def add(self, name: str, content: bytes) -> str:
        """Keep an upload. Return its token."""
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._uploads[token] = Upload(name, content, time.monotonic() + self._seconds)
        return token

    def claim(self, token: str, session: str) -> bool:
        """Note that `session` asks for the report on an upload. Return whether the upload is still there."""
        with self._lock:
            upload = self._uploads.get(token)
            if upload is None:
                return False
            upload.session = session
            upload.expires = time.monotonic() + self._seconds
            return True

    def take(self, token: str) -> Upload:
        """Remove an upload and return it. Raises UserError if it was removed before."""
        with self._lock:
            upload = self._uploads.pop(token, None)
        if upload is None:
            raise UserError(f"The upload was removed after {self._seconds:g} seconds: upload it again")
        return upload

    @contextmanager
    def waiting(self, session: str) -> Iterator[None]:
        """Keep the uploads of `session` within the context, in which it waits for reports."""
        with self._lock:
            self._waiting[session] += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting[session] -= 1
                if not self._waiting[session]:
                    del self._waiting[session]
                    for upload in self._uploads.values():
                        if upload.session == session:
                            upload.expires = time.monotonic() + self._seconds

    def remove_expired(self) -> None:
        """Remove the uploads whose time is over and that no session waits for."""
        now = time.monotonic()
        with self._lock:
            for token, upload in list(self._uploads.items()):
                if upload.expires <= now and upload.session not in self._waiting:
                    del self._uploads[token]


class _MemoryParser(MultiPartParser):
    """A parser of forms that keeps files in memory, whatever their size: Starlette spools large ones to disk."""

    spool_max_size = limits.MAX_REQUEST_BYTES


async def parse_form(headers: list[tuple[bytes, bytes]], body: AsyncIterator[bytes]) -> tuple[str, bytes]:
    """Return the name and the content of the one file in a form. Raises UserError if there is no such file."""
    form: Any = None
    try:
        form = await _MemoryParser(Headers(raw=headers), body, max_files=1, max_fields=4).parse()
        file = form.get("files")
        if file is None or isinstance(file, str):
            raise UserError("The form has no file")
        content = await file.read()
    except (MultiPartException, KeyError, UnicodeError) as error:
        raise UserError("The form is malformed, or has several files") from error
    finally:
        if form is not None:
            await form.close()
    if len(content) > limits.MAX_UPLOAD_BYTES:
        raise UserError(f"The file is larger than {limits.MAX_UPLOAD_BYTES} bytes")
    name = readable((file.filename or "").replace("\\", "/").rpartition("/")[2])[:_MAX_NAME_LENGTH]
    return name or "upload", content
