"""Pages on disk: a restarted engine answers as before, and takes nothing from a wrong file."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from heddle.engine import warm
from heddle.engine.cache import PageCache
from heddle.engine.config import EngineConfig
from heddle.engine.engine import Engine
from heddle.engine.request import Thinking
from heddle.errors import StorageError
from tests.engine.collect import ask
from tests.engine.test_cache import fill
from tests.tiny import save_tiny
from tests.weights.gguf_files import TINY, write_gguf

PROMPT = list(range(10, 90))


def answered(engine: Engine, prompt: list[int] = PROMPT, **fields) -> tuple[list[int], int]:
    """Return the answer's tokens, and how many of the prompt came from the cache."""
    answer = ask(engine, prompt, 12, **fields)
    return answer.tokens, answer.finished.num_cached_tokens


def the_file(folder: Path) -> Path:
    [path] = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory) -> Path:
    shape = replace(TINY, width=96, num_heads=6, num_kv_heads=2)
    folder = tmp_path_factory.mktemp("gguf")
    return write_gguf(folder / "model.gguf", config=shape, format="Q4_1")


@pytest.mark.parametrize("cache_dtype", ["auto", "int8"])
def test_a_restart_answers_the_same_from_warm_pages(gguf_file, tmp_path, cache_dtype):
    """By native kernels where there are some; int8 has scales too."""
    config = EngineConfig(threads=1, cache_dtype=cache_dtype, prefix_cache=tmp_path / "warm")
    first = (
        Engine.load(gguf_file, config) if cache_dtype == "auto" else _quantised(gguf_file, config)
    )
    before, num_cached = answered(first)
    first.close()
    assert num_cached == 0
    second = Engine.load(gguf_file, config)
    assert second.stats().num_remembered_pages == 5  # 80 of the prompt; of the answer 12 are less
    assert answered(second) == (before, 79)
    second.close()


def _quantised(path: Path, config: EngineConfig) -> Engine:
    engine = Engine.load(path, replace(config, cache_dtype="auto", prefix_cache=None))
    kernels = engine.kernels
    engine.close()
    if kernels is None:
        pytest.skip("a cache in int8 needs native kernels")
    return Engine.load(path, config)


@pytest.mark.parametrize("kind", ["dense", "loops", "experts", "memory", "pages"])
def test_every_kind_of_network_keeps_what_its_pages_hold(
    engine_for: Callable[..., Engine], kind: str, tmp_path
):
    """Slots and the gate's mean too; a prefix stays one of its depth."""
    thinking = Thinking(max_loops=3) if kind in ("loops", "memory") else Thinking()
    prompt = [7 + token % 300 for token in range(220)]
    first = engine_for(kind, prefix_cache=tmp_path / "warm")
    before, _ = answered(first, prompt, thinking=thinking)
    first.close()
    second = engine_for(kind, prefix_cache=tmp_path / "warm")
    if thinking != Thinking():
        assert answered(second, prompt)[1] == 0
    after, num_cached = answered(second, prompt, thinking=thinking)
    assert after == before and num_cached > 0


def test_a_smaller_cache_takes_the_most_recent(tmp_path):
    folder, config = save_tiny(tmp_path / "tiny"), EngineConfig(threads=1, prefix_cache=tmp_path)
    first = Engine.load(folder, config)
    old, new = [[word] * 60 for word in (11, 12)]
    for prompt in (old, new):
        answered(first, prompt)
    first.close()
    second = Engine.load(folder, replace(config, cache_tokens=80))
    assert second.stats().num_remembered_pages == 5  # four of the new one's, the old one's first
    assert answered(second, new)[1] == 59
    second.close()


def damaged(path: Path, damage: str) -> None:
    data = bytearray(path.read_bytes())
    if damage == "torn":
        data = data[:-1000]
    elif damage == "empty":
        data = data[:0]
    elif damage == "flipped in a page":
        data[-1000] ^= 4
    elif damage == "flipped in the list":
        data[60] ^= 4
    else:
        data = bytearray(b"something else altogether") * 10
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage", ["torn", "empty", "flipped in a page", "flipped in the list", "foreign"]
)
def test_a_wrong_file_is_ignored_and_named_once(tmp_path, caplog, damage):
    folder, kept = save_tiny(tmp_path / "tiny"), tmp_path / "warm"
    config = EngineConfig(threads=1, prefix_cache=kept)
    first = Engine.load(folder, config)
    before, _ = answered(first)
    first.close()
    damaged(the_file(kept), damage)
    second = Engine.load(folder, config)
    told = [record for record in caplog.records if "prefix_cache=ignored" in record.message]
    assert len(told) == 1 and str(the_file(kept)) in told[0].message
    assert answered(second) == (before, 0)
    second.close()
    third = Engine.load(folder, config)  # the second has put a good one in its place
    assert answered(third) == (before, 79)
    third.close()


def test_another_model_s_pages_are_refused(tmp_path, caplog):
    """By their names, and by what is in them if they were renamed."""
    kept = tmp_path / "warm"
    config = EngineConfig(threads=1, prefix_cache=kept)
    first = Engine.load(save_tiny(tmp_path / "first", seed=1), config)
    answered(first)
    first.close()
    theirs = the_file(kept)
    other = save_tiny(tmp_path / "other", seed=2)
    second = Engine.load(other, config)
    assert answered(second)[1] == 0
    second.close()
    [ours] = set(kept.iterdir()) - {theirs}
    theirs.rename(ours)
    third = Engine.load(other, config)
    assert "its pages are of another model" in caplog.text and answered(third)[1] == 0
    third.close()


def test_an_idle_engine_saves_without_being_told(tmp_path, monkeypatch):
    monkeypatch.setattr(warm, "IDLE_S", 0.05)
    monkeypatch.setattr(warm, "EVERY_S", 0.1)
    folder, kept = save_tiny(tmp_path / "tiny"), tmp_path / "warm"
    engine = Engine.load(folder, EngineConfig(threads=1, prefix_cache=kept))
    before, _ = answered(engine)
    deadline = time.monotonic() + 20
    while not list(kept.glob("*.pages")) and time.monotonic() < deadline:
        time.sleep(0.02)
    copy = tmp_path / "copy"  # as if this one had been killed
    copy.mkdir()
    (copy / the_file(kept).name).write_bytes(the_file(kept).read_bytes())
    engine.close()
    second = Engine.load(folder, EngineConfig(threads=1, prefix_cache=copy))
    assert answered(second) == (before, 79)
    second.close()


def test_saving_gives_way_to_requests_and_leaves_nothing_behind(tmp_path):
    folder, kept = save_tiny(tmp_path / "tiny"), tmp_path / "warm"
    engine = Engine.load(folder, EngineConfig(threads=1, prefix_cache=kept))
    answered(engine)
    assert engine._warm is not None
    engine._warm.save(is_idle=lambda: False)
    assert list(kept.iterdir()) == []
    engine.close()
    assert the_file(kept).stat().st_mode & 0o777 == 0o600


def test_a_disk_that_fails_costs_a_log_line(tmp_path, caplog):
    kept = tmp_path / "warm"
    config = EngineConfig(threads=1, prefix_cache=kept)
    engine = Engine.load(save_tiny(tmp_path / "tiny"), config)
    answered(engine)
    kept.rmdir()
    kept.write_text("no folder any more")
    engine.close()
    assert "prefix_cache=not_saved" in caplog.text
    with pytest.raises(StorageError, match="warm"):
        Engine.load(tmp_path / "tiny", config)


def test_all_files_together_are_bounded(tmp_path, monkeypatch):
    kept = tmp_path / "warm"
    for seed in range(3):
        config = EngineConfig(threads=1, prefix_cache=kept)
        engine = Engine.load(save_tiny(tmp_path / str(seed), seed=seed), config)
        answered(engine)
        engine.close()
        if seed == 0:
            [first] = kept.iterdir()
            monkeypatch.setattr(warm, "MAX_BYTES", int(first.stat().st_size * 2.5))
    assert len(list(kept.iterdir())) == 2 and not first.exists()


def test_the_most_recently_used_come_first_and_parents_before_children():
    cache = PageCache(num_pages=12, page_tokens=2)
    old, new = [1, 2, 3, 4, 5], [1, 2, 6, 7, 8]
    cache.release(fill(cache, old))
    cache.release(fill(cache, [20, 21, 22]))
    held = fill(cache, new)
    order = cache.remembered()
    found = [cache.found_by(page)[1] for page in order]
    assert found == [(1, 2), (6, 7), (20, 21), (3, 4)]
    assert cache.found_by(order[1])[0] == order[0]
    cache.release(held)
