"""The server as a process: signals, a killed one, a taken port."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from heddle.errors import ConfigError
from heddle.server.keys import KeyStore
from heddle.server.main import listen
from heddle.server.settings import ServerSettings
from tests.server import live
from tests.server.conftest import chat_body

ROOT = Path(__file__).parent.parent.parent
LONG = {"max_tokens": 400, "ignore_eos": True, "stream": True}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def process(
    model: Path, keys: Path, *, port: int, drain_s: float = 20
) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", live.__name__, *map(str, (model, port, keys))]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout.readline() == "ready\n"
            yield running
        finally:
            running.kill()


@pytest.fixture
def keys(tmp_path) -> tuple[Path, dict[str, str]]:
    path = tmp_path / "keys.sqlite"
    return path, {"authorization": f"Bearer {KeyStore(path).create('test')}"}


class Reader(threading.Thread):
    """A client in a thread: what it has read so far, and the error it met."""

    def __init__(self, port: int, headers: dict[str, str], **fields):
        super().__init__()
        self.lines: list[str] = []
        self.error: Exception | None = None
        self._url = f"http://127.0.0.1:{port}/v1/chat/completions"
        self._headers = headers
        self._body = chat_body(**LONG | fields)
        self.start()
        live.wait_until(lambda: len(self.lines) > 4 or self.error is not None)

    def run(self) -> None:
        try:
            with httpx.stream(
                "POST", self._url, json=self._body, headers=self._headers, timeout=30
            ) as response:
                for line in response.iter_lines():
                    self.lines.append(line)
        except httpx.HTTPError as error:
            self.error = error


def test_sigterm_lets_answers_end_and_turns_new_ones_away(tiny_folder, keys):
    path, headers = keys
    port = free_port()
    with process(tiny_folder, path, port=port) as running:
        reader = Reader(port, headers)
        running.send_signal(signal.SIGTERM)
        live.wait_until(lambda: not is_listening(port))
        reader.join()
        assert reader.error is None and "data: [DONE]" in reader.lines
        chunks = [json.loads(line[6:]) for line in reader.lines if line.startswith("data: {")]
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
        assert running.wait(10) == 0


def test_second_signal_ends_at_once(tiny_folder, keys):
    path, headers = keys
    port = free_port()
    with process(tiny_folder, path, port=port) as running:
        reader = Reader(port, headers, max_tokens=900, n=8)
        running.send_signal(signal.SIGINT)
        live.wait_until(lambda: not is_listening(port))
        start = time.monotonic()
        running.send_signal(signal.SIGINT)
        assert running.wait(10) == -signal.SIGINT
        assert time.monotonic() - start < 1
        reader.join()


def test_kill_minus_9_and_restart(tiny_folder, keys):
    path, headers = keys
    port = free_port()
    with process(tiny_folder, path, port=port) as running:
        reader = Reader(port, headers)
        running.kill()
        running.wait(10)
        reader.join()
    with process(tiny_folder, path, port=port):
        models = f"http://127.0.0.1:{port}/v1/models"
        assert httpx.get(models, headers=headers).status_code == 200
        assert httpx.get(models).status_code == 401


def test_port_in_use_is_one_sentence(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = ServerSettings(port=taken.getsockname()[1], keys_path=tmp_path / "keys")
        with pytest.raises(ConfigError, match=f"port {settings.port} .* is in use: .*--port"):
            listen(settings)
    with pytest.raises(ConfigError, match="cannot listen on 203.0.113.7"):
        listen(ServerSettings(host="203.0.113.7", keys_path=tmp_path / "keys"))


def is_listening(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0
