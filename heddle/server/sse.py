"""Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from heddle.errors import HeddleError
from heddle.server.disconnect import unless_disconnected
from heddle.server.failures import failure_of

log = logging.getLogger(__name__)

HEARTBEAT = b": still here\n\n"
DONE = b"data: [DONE]\n\n"
Chunks = AsyncGenerator[Mapping[str, Any], None]


class EventStream(Response):
    """Sends chunks as `data:` frames, a comment when none came for `heartbeat_s`, and `[DONE]`.

    What fails before the first chunk is raised, and so gets a status of its own; what fails later
    is a frame with OpenAI's error object and no `[DONE]` after it.
    """

    media_type = "text/event-stream"

    def __init__(self, chunks: Chunks, *, heartbeat_s: float):
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._chunks = chunks
        self._heartbeat_s = heartbeat_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream until it ends or the client leaves."""
        async with aclosing(self._chunks):
            await unless_disconnected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        first = await anext(self._chunks)
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": frame_of(first), "more_body": True})
        async with aclosing(self._more_frames()) as frames:
            async for frame in frames:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _more_frames(self) -> AsyncGenerator[bytes, None]:
        coming = None
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(self._chunks, None))
                await asyncio.wait({coming}, timeout=self._heartbeat_s)
                if not coming.done():
                    yield HEARTBEAT
                    continue
                chunk, coming = coming.result(), None
                if chunk is None:
                    yield DONE
                    return
                yield frame_of(chunk)
        except HeddleError as error:
            log.error("event=stream_failed error=%s", type(error).__name__)
            yield frame_of(failure_of(error).body())
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)


def frame_of(chunk: Mapping[str, Any]) -> bytes:
    """Return one event."""
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"
