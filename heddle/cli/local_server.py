"""A server inside this process, on a free port of loopback, for as long as a command needs one."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heddle.cli.console import err
from heddle.engine.config import EngineConfig
from heddle.engine.engine import Engine
from heddle.server.app import build_app
from heddle.server.main import listen, make_server
from heddle.server.settings import ServerSettings


@contextmanager
def loaded(path: Path, config: EngineConfig) -> Iterator[Engine]:
    """Give an engine on a model, until the block ends."""
    with err.status("Loading the model…"):
        engine = Engine.load(path, config)
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def serving(engine: Engine) -> Iterator[str]:
    """Serve an engine's model from a thread of this process; gives the server's address."""
    settings = ServerSettings(port=0, require_keys=False, drain_timeout_s=1)
    listener = listen(settings)
    server = make_server(build_app(engine, settings), settings)
    thread = threading.Thread(target=server.run, args=[[listener]], name="heddle-server")
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
