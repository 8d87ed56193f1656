"""JSON requests to an OpenAI-compatible server: tried again where that helps, errors named.

Called by `http`. Source of the error shape: https://platform.openai.com/docs/guides/error-codes
"""

import logging
import random
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from typing import Any

import httpx

from heddle.client.sse import events
from heddle.errors import ConfigError, RemoteError
from heddle.text.json_values import is_object, load_or_none

log = logging.getLogger(__name__)

_BUSY = (429, 503)
_NOT_ANSWERED = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout)
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 60.0
_CONNECT_TIMEOUT_S = 10.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Connection:
    """A server's address, the key for it, and how patient to be.

    A request is sent again, at most `max_retries` times, when the server is busy (429, 503) or
    breaks the connection before a byte of an answer; pauses double, or last as long as
    `retry-after` says in seconds. `timeout_s` bounds each wait for bytes, not the whole answer.
    """

    def __init__(self, base_url: str, *, api_key: str | None, timeout_s: float, max_retries: int):
        if not base_url.startswith(("http://", "https://")):
            raise ConfigError(f"{base_url!r} is no server's address: http://127.0.0.1:8000 is one")
        root = base_url.rstrip("/")
        self._root = root if root.endswith("/v1") else f"{root}/v1"
        self._max_retries = max_retries
        self._client = httpx.Client(
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S),
            trust_env=httpx.URL(root).host not in _LOOPBACK,  # no proxy leads to this machine
        )

    def close(self) -> None:
        """Close what is open."""
        self._client.close()

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON object at a path. Raises RemoteError."""
        with self._opened("GET", path, None) as response:
            return _read_object(response)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the JSON object that answers `body`. Raises RemoteError."""
        with self._opened("POST", path, body) as response:
            return _read_object(response)

    def stream(self, path: str, body: dict[str, Any]) -> Generator[dict[str, Any]]:
        """Yield the JSON objects of a stream up to its `[DONE]`.

        Raises RemoteError, also when the stream breaks off or brings an error. The connection
        closes when the generator does.
        """
        with self._opened("POST", path, body) as response:
            for data in events(response.iter_bytes()):
                if data == "[DONE]":
                    return
                yield _checked_object(data, response)
            raise httpx.RemoteProtocolError("no end mark", request=response.request)

    @contextmanager
    def _opened(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> Generator[httpx.Response]:
        """Give a good response whose body is still to be read."""
        request = self._client.build_request(method, self._root + path, json=body)
        try:
            with closing(self._send(request)) as response:
                if not response.is_success:
                    response.read()
                    raise _error(response.text, response)
                yield response
        except httpx.TimeoutException as error:
            message = f"{request.url} did not answer in time"
            raise RemoteError(message, status=0, code="timeout") from error
        except httpx.ConnectError as error:
            message = f"{request.url} cannot be reached ({error}): is the server running?"
            raise RemoteError(message, status=0, code="unreachable") from error
        except httpx.HTTPError as error:
            message = f"{request.url}: the connection broke off ({error})"
            raise RemoteError(message, status=0, code="broken_off") from error

    def _send(self, request: httpx.Request) -> httpx.Response:
        """Return the response's head, whatever its status, after as many attempts as it takes."""
        for attempt in range(self._max_retries):
            pause_s = _FIRST_PAUSE_S * 2**attempt * random.uniform(0.75, 1.25)
            try:
                response = self._client.send(request, stream=True)
            except _NOT_ANSWERED as error:
                reason = type(error).__name__
            else:
                told_s = _retry_after_s(response)
                pause_s = pause_s if told_s is None else told_s
                if response.status_code not in _BUSY or pause_s > _LONGEST_PAUSE_S:
                    return response
                response.close()
                reason = f"status_{response.status_code}"
            log.info("event=retry pause_s=%.2f reason=%s", pause_s, reason)
            time.sleep(pause_s)
        return self._client.send(request, stream=True)


def _retry_after_s(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _read_object(response: httpx.Response) -> dict[str, Any]:
    response.read()
    return _checked_object(response.text, response)


def _checked_object(text: str, response: httpx.Response) -> dict[str, Any]:
    body = load_or_none(text)
    if not is_object(body) or "error" in body:
        raise _error(text, response)
    return body


def _error(text: str, response: httpx.Response) -> RemoteError:
    """Return the error that a response tells of, in OpenAI's shape or any other."""
    body = load_or_none(text)
    told = body.get("error") if is_object(body) else None
    message, code = told, None
    if is_object(told):
        message, code = told.get("message"), told.get("code") or told.get("type")
    if not isinstance(message, str):
        message = f"no answer in OpenAI's shape: {text[:200]}"
    status = response.status_code
    return RemoteError(f"{response.url} answered {status}: {message}", status=status, code=code)
