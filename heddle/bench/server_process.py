"""Our server in a process of its own, as a person would start it.

Used by `load`, `memory` and `startup`. Everything stays on loopback.
"""

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from heddle.errors import ConfigError, EngineError

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 20.0


class Command(NamedTuple):
    """How a server is started, and the path that answers 200 once it is ready."""

    arguments: list[str]
    port: int
    ready_path: str


class ServerProcess(NamedTuple):
    """A server that answers; `ready_s` is how long that took from the start of its process."""

    url: str
    pid: int
    ready_s: float

    def peak_bytes(self) -> int:
        """Return the most memory that the process ever held (`VmHWM` of proc(5))."""
        status = Path(f"/proc/{self.pid}/status")
        if not status.exists():
            raise ConfigError("peak memory is read from /proc, which this system does not have")
        lines = status.read_text(encoding="utf-8").splitlines()
        (line,) = (line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024


def heddle_command(model_path: Path, *, threads: int, context_length: int) -> Command:
    """Return the command that serves a model with Heddle on a free port."""
    port = _free_port()
    arguments = [
        *(sys.executable, "-m", "heddle", "serve", str(model_path), "--port", str(port)),
        *("--threads", str(threads), "--context-length", str(context_length)),
    ]
    return Command(arguments, port, "/ready")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(command: Command) -> Iterator[ServerProcess]:
    """Start a server, wait until it answers, and end it with the block."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        started = time.perf_counter()
        process = subprocess.Popen(command.arguments, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{command.port}"
            if not _becomes_ready(process, url + command.ready_path):
                log.seek(0)
                raise EngineError(f"the server did not start; it said: {log.read()[-2000:]}")
            yield ServerProcess(url, process.pid, time.perf_counter() - started)
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _becomes_ready(process: subprocess.Popen, url: str) -> bool:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    return False
