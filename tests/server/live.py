"""Real servers for tests: in a thread of this process, or this file as a process of its own."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from heddle.engine.config import EngineConfig
from heddle.engine.engine import Engine
from heddle.server.app import build_app
from heddle.server.main import listen, make_server, run
from heddle.server.settings import ServerSettings


@contextmanager
def live_server(engine: Engine, folder: Path, **settings) -> Iterator[str]:
    """Serve `engine` in a thread on a free port; yields the address."""
    chosen = ServerSettings(port=0, keys_path=folder / "keys.sqlite", **settings)
    listener = listen(chosen)
    server = make_server(build_app(engine, chosen), chosen)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    host, port = listener.getsockname()[:2]
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()


def wait_until(holds: Callable[[], bool], *, timeout_s: float = 10) -> None:
    """Wait for a condition; fail when it does not come true."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def say_ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def main() -> None:
    """Serve the model in a folder: MODEL PORT KEYS."""
    model, port, keys = sys.argv[1:]
    settings = ServerSettings(port=int(port), keys_path=Path(keys), require_keys=True)
    engine = Engine.load(Path(model), EngineConfig(threads=1))
    run(engine, settings, on_ready=say_ready)


if __name__ == "__main__":
    main()
