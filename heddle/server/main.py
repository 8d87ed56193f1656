"""Runs an application until a signal ends it.

Called by `heddle serve`; writes nothing but log lines.
"""

import errno
import logging
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from heddle.engine.engine import Engine
from heddle.errors import ConfigError
from heddle.server.app import build_app
from heddle.server.protocol import PatientProtocol
from heddle.server.settings import ServerSettings

log = logging.getLogger(__name__)

BACKLOG = 1024
KEEP_ALIVE_S = 30


class Server(uvicorn.Server):
    """uvicorn's server, which says when it is ready, and returns after draining."""

    def __init__(self, config: uvicorn.Config, *, on_ready: Callable[[], None] | None = None):
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening."""
        await super().startup(sockets)
        if self._on_ready:
            self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Drain on the first SIGTERM or SIGINT; a second one ends the process at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_signal(number: int, frame: FrameType | None) -> None:
            log.info("event=draining signal=%s", signal.Signals(number).name)
            self.should_exit = True
            for each in before:
                signal.signal(each, signal.SIG_DFL)

        before = {each: signal.signal(each, on_signal) for each in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def listen(settings: ServerSettings) -> socket.socket:
    """Take the port; raises ConfigError, in one sentence, when that cannot be done."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {settings.port} on {settings.host} is in use: "
                "stop what uses it, or choose another with --port"
            ) from error
        raise ConfigError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}"
        ) from error
    return listener


def make_server(
    app: FastAPI, settings: ServerSettings, *, on_ready: Callable[[], None] | None = None
) -> Server:
    """Return a server for `app`; `run(sockets=[...])` starts it."""
    protocol = partial(
        PatientProtocol,
        read_timeout_s=settings.read_timeout_s,
        write_timeout_s=settings.write_timeout_s,
    )
    config = uvicorn.Config(
        app,
        http=protocol,  # pyright: ignore[reportArgumentType]
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s),
    )
    return Server(config, on_ready=on_ready)


def run(
    engine: Engine,
    settings: ServerSettings,
    *,
    listener: socket.socket | None = None,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Serve `engine` until SIGTERM or SIGINT, let running answers end, and close it.

    A `listener` from `listen` may be passed, so that a port in use is found before a model is
    loaded. `on_ready` is called once requests are answered.
    """
    listener = listener or listen(settings)
    try:
        make_server(build_app(engine, settings), settings, on_ready=on_ready).run(
            sockets=[listener]
        )
    finally:
        engine.close()
