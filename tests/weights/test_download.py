import hashlib
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from heddle.errors import DownloadError
from heddle.weights import download
from heddle.weights.download import ATTEMPTS, fetch
from tests.weights.index_server import Index, serving

CONTENT = random.Random(0).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.001)
    with serving(Index(files={"model.bin": CONTENT})) as index:
        yield index


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False) as client:
        yield client


def fetch_model(client: httpx.Client, index: Index, target: Path, **options) -> None:
    fetch(client, f"{index.url}/files/model.bin", target, **({"sha256": SHA256} | options))


def test_progress_runs_from_nothing_to_all(
    index: Index, client: httpx.Client, tmp_path: Path
) -> None:
    seen: list[tuple[int, int | None]] = []
    fetch_model(
        client, index, tmp_path / "x", on_progress=lambda done, total: seen.append((done, total))
    )
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen) and len(seen) > 5
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_a_cut_connection_is_resumed_where_it_stopped(
    index: Index, client: httpx.Client, tmp_path: Path
) -> None:
    index.failures = ["cut", "cut"]
    fetch_model(client, index, tmp_path / "x")
    first, second, third = index.file_requests()
    assert first is None
    assert 0 < int(second[6:-1]) < int(third[6:-1]) < len(CONTENT)
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_a_later_call_resumes_what_an_earlier_one_left(
    index: Index, client: httpx.Client, tmp_path: Path
) -> None:
    (tmp_path / "x.part").write_bytes(CONTENT[:1_000_000])
    fetch_model(client, index, tmp_path / "x")
    assert index.file_requests() == ["bytes=1000000-"]
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_without_ranges_it_starts_over(index: Index, client: httpx.Client, tmp_path: Path) -> None:
    index.honours_range = False
    (tmp_path / "x.part").write_bytes(CONTENT[:1_000_000])
    fetch_model(client, index, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT


@pytest.mark.parametrize("stale", [b"something else", CONTENT + b"longer", CONTENT])
def test_a_stale_part_is_replaced(
    stale: bytes, index: Index, client: httpx.Client, tmp_path: Path
) -> None:
    (tmp_path / "x.part").write_bytes(stale)
    fetch_model(client, index, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_passing_failures_are_tried_again(
    index: Index, client: httpx.Client, tmp_path: Path
) -> None:
    index.failures = [500, 503, 429]
    fetch_model(client, index, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_lasting_failures_end_in_one_sentence(
    index: Index, client: httpx.Client, tmp_path: Path
) -> None:
    index.failures = [500] * 99
    with pytest.raises(DownloadError, match=r"cannot fetch from 127\.0\.0\.1: it answers 500"):
        fetch_model(client, index, tmp_path / "x")
    assert len(index.file_requests()) == ATTEMPTS
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_not_tried_again(index: Index, client: httpx.Client, tmp_path: Path) -> None:
    index.failures = [403] * 99
    with pytest.raises(DownloadError, match="403"):
        fetch_model(client, index, tmp_path / "x")
    assert len(index.file_requests()) == 1


def test_a_wrong_hash_names_both_and_leaves_nothing(
    index: Index, client: httpx.Client, tmp_path: Path
) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch_model(client, index, tmp_path / "x", sha256="0" * 64)
    assert SHA256 in str(caught.value) and "0" * 64 in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_no_network_is_one_sentence(
    client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.001)
    with serving(Index()) as index:
        pass  # now nobody listens on its port
    with pytest.raises(DownloadError, match="check the network"):
        fetch_model(client, index, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import sys, httpx
from pathlib import Path
from heddle.errors import StorageError
from heddle.weights.download import fetch
try:
    fetch(httpx.Client(trust_env=False), sys.argv[1], Path(sys.argv[2]), sha256=None)
except StorageError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_is_one_sentence_and_gets_its_space_back(
    index: Index, tmp_path: Path
) -> None:
    """The limit on a file's size stands in for a full disk: writes fail half-way just so."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    command = [sys.executable, "-c", FULL_DISK, f"{index.url}/files/model.bin", str(tmp_path / "x")]
    answer = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=True)
    assert "cannot write to" in answer.stdout and "free some space" in answer.stdout
    assert list(tmp_path.iterdir()) == []


def test_interruption_keeps_the_part(index: Index, client: httpx.Client, tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done > 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_model(client, index, tmp_path / "x", on_progress=interrupt)
    assert (tmp_path / "x.part").stat().st_size > 1_000_000
    fetch_model(client, index, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT
