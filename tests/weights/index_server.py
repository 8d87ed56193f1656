"""A package index on the loopback interface, with the faults that real ones have."""

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def wheel_of(*members: tuple[str, bytes]) -> bytes:
    """Return a wheel with these files in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


@dataclass
class Index:
    """What is served, what goes wrong, and what was asked: paths with their Range headers."""

    files: dict[str, bytes] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)  # false ones, by file name
    speaks_json: bool = True
    honours_range: bool = True
    failures: list[str | int] = field(
        default_factory=list
    )  # of the next file requests: a status, or "cut"
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def file_requests(self) -> list[str | None]:
        return [wanted for path, wanted in self.requests if path.startswith("/files/")]


class Handler(BaseHTTPRequestHandler):
    """Answers for `index`, which `serving` sets."""

    index: Index

    def do_GET(self) -> None:
        self.index.requests.append((self.path, self.headers.get("Range")))
        if self.path.startswith("/files/"):
            self.send_file(self.path.removeprefix("/files/"))
        else:
            self.send_page(self.path.removeprefix("/simple/").strip("/"))

    def send_page(self, name: str) -> None:
        found = [file for file in self.index.files if file.split("-")[0].replace("_", "-") == name]
        if not found:
            self.send_error(404)
        elif self.index.speaks_json and "json" in self.headers["Accept"]:
            page = {"files": [self.describe(file) for file in found]}
            self.send(json.dumps(page).encode(), "application/vnd.pypi.simple.v1+json")
        else:
            links = [
                f'<a href="../../files/{file}#sha256={self.sha256(file)}">{file}</a>'
                for file in found
            ]
            self.send("".join(links).encode(), "text/html")

    def describe(self, file: str) -> dict[str, object]:
        size = len(self.index.files[file])
        hashes = {"sha256": self.sha256(file)}
        return {"filename": file, "url": f"/files/{file}", "hashes": hashes, "size": size}

    def sha256(self, file: str) -> str:
        return self.index.hashes.get(file) or hashlib.sha256(self.index.files[file]).hexdigest()

    def send_file(self, file: str) -> None:
        content, wanted = self.index.files[file], self.headers.get("Range")
        failure = self.index.failures.pop(0) if self.index.failures else None
        start = 0
        if wanted and self.index.honours_range:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if isinstance(failure, int) or start >= len(content):
            self.send_error(failure if isinstance(failure, int) else 416)
            return
        self.send_response(206 if start else 200)
        if start:
            total = len(content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        body = content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if failure == "cut" else body)
        self.close_connection = True

    def send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@contextmanager
def serving(index: Index) -> Iterator[Index]:
    """Serve an index on a free port until the block ends."""
    handler = type("IndexHandler", (Handler,), {"index": index})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    index.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield index
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
