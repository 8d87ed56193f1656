"""`hf:` against a stand-in for the hub on loopback, through the real client library."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.tiny import save_tiny

pytest.importorskip("huggingface_hub")

COMMIT = "c" * 40
RESOLVE = """
import sys
from heddle.errors import HeddleError
from heddle.weights.hub import cached_models, resolve
try:
    print(resolve(sys.argv[1]))
    print([model.name for model in cached_models()])
except HeddleError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve one repository, owner/Tiny-LM; yields the address and the paths that were asked for."""
    folder, asked = save_tiny(tmp_path / "tiny"), []
    (folder / "training_log.txt").write_text("not needed")

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            name = self.path.split("?")[0].removeprefix(f"/owner/Tiny-LM/resolve/{COMMIT}/")
            if self.path.startswith("/api/models/owner/Tiny-LM/tree/"):
                tree = [
                    {
                        "type": "file",
                        "path": path.name,
                        "size": path.stat().st_size,
                        "oid": "0" * 40,
                    }
                    for path in folder.iterdir()
                ]
                self.answer(json.dumps(tree).encode(), {"Content-Type": "application/json"})
            elif self.path.startswith("/api/models/owner/Tiny-LM"):
                names = [{"rfilename": path.name} for path in folder.iterdir()]
                body = json.dumps({"id": "owner/Tiny-LM", "sha": COMMIT, "siblings": names})
                self.answer(body.encode(), {"Content-Type": "application/json"})
            elif (folder / name).is_file():
                body = (folder / name).read_bytes()
                etag = f'"{hashlib.sha256(body).hexdigest()}"'
                self.answer(body, {"ETag": etag, "X-Repo-Commit": COMMIT})
            else:
                self.answer(b"", {"X-Error-Code": "RepoNotFound"}, status=404)

        def answer(self, body: bytes, headers: dict[str, str], *, status: int = 200) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def resolve(spec: str, endpoint: str, tmp_path: Path) -> str:
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "HEDDLE_CACHE": str(tmp_path / "cache"),
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-c", RESOLVE, spec]
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=60
    ).stdout


def test_a_repository_is_fetched_once_and_without_what_is_not_needed(
    hub: tuple[str, list[str]], tmp_path: Path
) -> None:
    endpoint, asked = hub
    path, models = resolve("hf:owner/Tiny-LM", endpoint, tmp_path).strip().splitlines()
    names = {file.name for file in Path(path).iterdir()}
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= names
    assert "training_log.txt" not in names and ".cache" not in names
    assert models == "['tiny-lm']"
    asked.clear()
    assert resolve("hf:owner/Tiny-LM", endpoint, tmp_path).splitlines()[0] == path
    assert asked == [], "a cached model needs no network"


def test_an_unknown_repository_is_one_sentence(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    answer = resolve("hf:owner/absent", hub[0], tmp_path)
    assert answer.startswith("DownloadError cannot fetch owner/absent") and answer.count("\n") == 1


def test_no_network_is_one_sentence(tmp_path: Path) -> None:
    answer = resolve("hf:owner/Tiny-LM", "http://127.0.0.1:9", tmp_path)
    assert answer.startswith("DownloadError cannot fetch owner/Tiny-LM") and answer.count("\n") == 1
