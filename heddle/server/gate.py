"""Who may ask: the host a browser believes it talks to, the key, and whether there is room.

Pure ASGI layers, innermost last: `HostCheck`, then (after CORS) `KeyCheck`, then `Admission`.
"""

import ipaddress
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from heddle.server.failures import Failure
from heddle.server.keys import KeyStore
from heddle.server.limits import Limits
from heddle.server.metrics import Metrics

GUARDED = ("/v1/", "/metrics")


class HostCheck:
    """Refuses foreign Host headers on loopback, which is how DNS rebinding shows."""

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str]):
        self._app = app
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on if its host is ours."""
        if scope["type"] == "http":
            host = host_name(Headers(scope=scope).get("host", ""))
            if host not in self._allowed_hosts and not _is_loopback(host):
                message = f"this server does not answer to the host {host[:100]!r}"
                failure = Failure(status=403, message=message, code="unknown_host")
                await failure.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)


def host_name(header: str) -> str:
    """Return a Host header without its port, in lower case."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class KeyCheck:
    """Names the caller: by its key where keys are required, else by its address.

    Where they are not, a key is not looked at: official clients always send one, often made up.
    """

    def __init__(self, app: ASGIApp, keys: KeyStore, *, required: bool):
        self._app = app
        self._keys = keys
        self._required = required

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on if its caller is known."""
        if scope["type"] == "http" and scope["path"].startswith(GUARDED):
            failure = self._identify(scope)
            if failure is not None:
                await failure.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _identify(self, scope: Scope) -> Failure | None:
        secret = sent_key(Headers(scope=scope))
        key = self._keys.check(secret) if secret and self._required else None
        if self._required and key is None:
            message = (
                "this API key is unknown or revoked"
                if secret
                else "send a key as `Authorization: Bearer hdl-...`; `heddle keys create` makes one"
            )
            return Failure(status=401, message=message, code="invalid_api_key")
        record, client = scope["state"]["record"], scope.get("client")
        record.caller = client[0] if client else "-"
        if key is not None:
            record.caller, record.bounds = key.id, key.bounds
        return None


def sent_key(headers: Headers) -> str | None:
    """Return the key of an `Authorization: Bearer` header, or of Azure's `api-key`."""
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret.strip():
        return secret.strip()
    return headers.get("api-key")


class Admission:
    """Counts the requests that make the model work, and turns away those beyond the limits."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics):
        self._app = app
        self._limits = limits
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on if there is room."""
        if (
            scope["type"] != "http"
            or scope["method"] != "POST"
            or not scope["path"].startswith(GUARDED)
        ):
            await self._app(scope, receive, send)
            return
        caller = scope["state"]["record"].caller
        failure = self._limits.enter(caller)
        if failure is not None:
            await failure.response()(scope, receive, send)
            return
        self._metrics.open_requests.set(self._limits.num_open)
        try:
            await self._app(scope, receive, send)
        finally:
            self._limits.leave(caller)
            self._metrics.open_requests.set(self._limits.num_open)
