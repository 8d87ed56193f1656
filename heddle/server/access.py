"""The outermost layer: for each request a record, a log line and counts, and an answer to our bugs.

A pure ASGI layer, as Starlette's BaseHTTPMiddleware hides disconnects from what it wraps.
"""

import logging
import re
import time
import traceback

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heddle.errors import HeddleError
from heddle.server.failures import Failure
from heddle.server.metrics import Metrics
from heddle.server.record import RequestRecord

log = logging.getLogger(__name__)

GIVEN_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
CLIENT_LEFT = 499


class Access:
    """Wraps the whole application."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and note how it went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given_id = Headers(scope=scope).get("x-request-id", "")
        record = RequestRecord(id=given_id) if GIVEN_ID.fullmatch(given_id) else RequestRecord()
        scope.setdefault("state", {})["record"] = record
        status = 0

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = record.id
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except ClientDisconnect:
            status = CLIENT_LEFT
        except Exception as error:  # the edge of the process: a bug of ours
            _log_bug(record, error)
            if not status:
                failure = Failure(status=500, message=f"internal error, logged as {record.id}")
                await failure.response()(scope, receive, send_noted)
        finally:
            self._note(scope, record, status or CLIENT_LEFT)

    def _note(self, scope: Scope, record: RequestRecord, status: int) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, status).inc()
        self._metrics.prompt_tokens.inc(record.num_prompt_tokens)
        self._metrics.cached_tokens.inc(record.num_cached_tokens)
        self._metrics.new_tokens.inc(record.num_new_tokens)
        log.info(
            "id=%s caller=%s method=%s path=%s status=%d ms=%.1f prompt_tokens=%d cached_tokens=%d "
            "new_tokens=%d flops=%s finish=%s",
            record.id,
            record.caller,
            scope["method"],
            scope["path"].encode("unicode_escape").decode()[:200],
            status,
            (time.perf_counter() - record.started_at) * 1000,
            record.num_prompt_tokens,
            record.num_cached_tokens,
            record.num_new_tokens,
            "-" if record.flops is None else f"{record.flops:.4g}",
            ",".join(record.finish_reasons) or "-",
        )


def _log_bug(record: RequestRecord, error: Exception) -> None:
    """Log where it happened; only errors of our own are quoted, as others may quote a prompt."""
    words = str(error) if isinstance(error, HeddleError) else "-"
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error(
        "event=bug id=%s error=%s words=%r\n%s", record.id, type(error).__name__, words, frames
    )
