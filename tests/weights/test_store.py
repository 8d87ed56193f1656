import json
import shutil
from pathlib import Path

import pytest
import torch

from heddle.errors import StorageError, WeightsError
from heddle.weights.store import (
    Record,
    Tensors,
    checkpoints,
    new_checkpoint,
    read_record,
    read_tensors,
    write_tensors,
)

TENSORS = Tensors(
    model={"a.weight": torch.arange(6.0).view(2, 3), "a.balance": torch.ones(3)},
    optimiser={"a.weight:momentum": torch.rand(2, 3), "a.weight:step": torch.tensor(7.0)},
)


def record(step: int) -> Record:
    return Record(step=step, cursor={"n": [step]}, configuration={"x": 1}, metrics={"loss": 0.5})


def save(folder: Path, step: int, *, keep: int = 9) -> Path:
    with new_checkpoint(folder, record(step), keep=keep) as unfinished:
        write_tensors(unfinished, TENSORS)
    return checkpoints(folder)[-1]


def test_what_is_saved_comes_back(tmp_path):
    path = save(tmp_path, 3)
    assert path.name == "step-00000003"
    assert read_record(path) == record(3)
    read = read_tensors(path)
    torch.testing.assert_close(read.model, TENSORS.model, rtol=0, atol=0)
    torch.testing.assert_close(read.optimiser, TENSORS.optimiser, rtol=0, atol=0)


def test_the_newest_are_kept(tmp_path):
    for step in (1, 20, 3, 100):
        save(tmp_path, step, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000020", "step-00000100"]


def test_a_save_that_fails_leaves_nothing_and_the_next_clears_what_a_kill_left(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(KeyError), new_checkpoint(tmp_path, record(2), keep=1) as unfinished:
        write_tensors(unfinished, TENSORS)
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    (tmp_path / ".step-00000002~abc").mkdir()
    save(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(StorageError, match="step 1 not saved: cannot write.*no earlier checkpoint"):
        save(tmp_path / "file", 1)


def damage_bytes(path: Path) -> None:
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)


def change_version(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    (path / "manifest.json").write_text(json.dumps(manifest | {"version": 99}), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_bytes, "model.safetensors is corrupt"),
        (lambda path: (path / "state.json").write_text("{}"), "state.json is corrupt"),
        (lambda path: (path / "optimiser.safetensors").unlink(), "optimiser.safetensors is miss"),
        (lambda path: (path / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda path: (path / "manifest.json").write_text("["), "manifest.json is missing or unr"),
        (change_version, "format version 99, and this Heddle reads version 1"),
    ],
)
def test_damage_is_named_and_the_older_checkpoint_offered(tmp_path, damage, words):
    older, newer = save(tmp_path, 1), save(tmp_path, 2)
    damage(newer)
    with pytest.raises(WeightsError, match=f"step-00000002.*{words}.*resume from step-00000001"):
        read_record(newer)
    shutil.rmtree(newer)
    assert read_record(older).step == 1


def test_damage_without_an_older_checkpoint(tmp_path):
    path = save(tmp_path, 1)
    damage_bytes(path)
    with pytest.raises(WeightsError, match="start anew"):
        read_record(path)
