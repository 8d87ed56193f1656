"""uvicorn's HTTP protocol with bounds for clients that send or read far too slowly, or too much."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 << 10


class PatientProtocol(HttpToolsProtocol):
    """Gives up a connection whose request does not arrive, or whose answer is not read, in time.

    A request, head and body, has `read_timeout_s` from its first byte or the opening of the
    connection, and `MAX_HEAD_BYTES` for its head. A client that reads nothing for `write_timeout_s`
    while an answer fills the buffers, is gone: its request sees a disconnect. The connection is
    aborted rather than closed, as closing waits for the client to read.
    """

    def __init__(self, *args: Any, read_timeout_s: float, write_timeout_s: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._read_timeout_s = read_timeout_s
        self._write_timeout_s = write_timeout_s
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._in_head = True
        self._num_head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore
        """Start waiting for a request."""
        super().connection_made(transport)
        self._await_request()

    def data_received(self, data: bytes) -> None:
        """Read more of a request."""
        super().data_received(data)
        if self._in_head:
            self._num_head_bytes += len(data)
        if self._num_head_bytes > MAX_HEAD_BYTES:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        super().on_message_begin()
        self._await_request()

    def on_headers_complete(self) -> None:
        """Note that the body is next."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Stop waiting for the request."""
        self._read_timer = _cancelled(self._read_timer)
        super().on_message_complete()

    def pause_writing(self) -> None:
        """Start waiting for the client to read."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop waiting: the client has read."""
        super().resume_writing()
        self._write_timer = _cancelled(self._write_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting: the client is gone."""
        super().connection_lost(exc)
        self._read_timer = _cancelled(self._read_timer)
        self._write_timer = _cancelled(self._write_timer)

    def _await_request(self) -> None:
        self._in_head = True
        self._num_head_bytes = 0
        self._read_timer = _cancelled(self._read_timer)
        self._read_timer = self.loop.call_later(self._read_timeout_s, self.transport.abort)


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
