"""The real server process, for tests of its clients, of the command line and of the README."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@contextmanager
def serving(*arguments: str, data: Path) -> Iterator[str]:
    """Run `heddle serve` on a free port and give its address once it says that it is ready."""
    command = [sys.executable, "-m", "heddle", "serve", *arguments, "--port", "0"]
    environment = {**os.environ, "HEDDLE_DATA": str(data)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("Heddle is ready: "), f"the server did not start: {line!r}"
            yield line.removeprefix("Heddle is ready: ").strip()
        finally:
            process.terminate()
            assert process.wait(30) == 0


@pytest.fixture(scope="session")
def server_url(tiny_folder, tmp_path_factory) -> Iterator[str]:
    """The address of a server of the tiny model."""
    data = tmp_path_factory.mktemp("data")
    with serving(str(tiny_folder), "--threads", "1", data=data) as url:
        yield url
