"""What a run leaves: a folder that is opened, and served, like any other model."""

import math
import shutil
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest
import torch

from heddle.engine.load import load_model
from heddle.errors import ConfigError, WeightsError
from heddle.model.batch import pack
from heddle.train import dist
from heddle.train.data.document import IGNORED, NO_CLUSTER
from heddle.train.data.pack import TrainBatch
from heddle.train.fit import FitConfig
from heddle.train.optim import OptimiserConfig
from heddle.train.pretrain import pretrain
from heddle.train.publish import publish, trained_model
from heddle.train.run import Run, start
from heddle.train.saving import SavingConfig
from heddle.train.stage import Stage
from heddle.weights import hub
from heddle.weights.checkpoint import open_checkpoint
from heddle.weights.delta import upcycle
from heddle.weights.store import (
    SHARDS,
    checkpoints,
    new_checkpoint,
    read_record,
    read_tensors,
)
from tests.tiny import CHATML, save_tiny, tiny_config, tiny_tokenizer
from tests.weights.test_native import ADAPTIVE


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Batches of ids that count up, with the tiny tokenizer or without one."""

    has_tokenizer: bool = True

    def stage(self, start) -> Stage:
        stage = pretrain(self._batches)
        if not self.has_tokenizer:
            return stage
        return replace(stage, tokenizer=tiny_tokenizer().to_str(), chat_template=CHATML)

    def _batches(self, cursor, *, rank, num_ranks):
        token_T = torch.arange(3, 35)
        batch = TrainBatch(
            token_T=token_T,
            target_T=torch.cat([token_T[1:], torch.tensor([IGNORED])]),
            position_T=torch.arange(32),
            bounds_S1=(0, 32),
            cluster_T=torch.full((32,), NO_CLUSTER),
            weight_T=torch.ones(32),
            part_T=torch.zeros(32, dtype=torch.long),
        )
        for number in count(cursor["number"] if cursor else 0):
            yield batch, {"number": number + 1}


def run_in(folder: Path, **changes) -> Run:
    fields = {
        "folder": folder,
        "objective": Numbers(),
        "optimiser": OptimiserConfig(learning_rate=3e-3),
        "fit": FitConfig(num_steps=2),
    }
    return Run(**(fields | changes))


def logits(checkpoint) -> torch.Tensor:
    with torch.inference_mode():
        return load_model(checkpoint, dtype="float32")(pack([[3, 4, 5, 6]], loops=2)).logits_NV


def test_a_model_from_nothing_is_whole(tmp_path):
    start(run_in(tmp_path / "Nano", model=tiny_config(**ADAPTIVE)), resume=False)
    found = open_checkpoint(tmp_path / "Nano")
    assert (found.name, found.base, found.chat_template) == ("nano", None, CHATML)
    assert found.config == tiny_config(**ADAPTIVE)
    assert found.eos_ids[0] == 2
    trained = read_tensors(checkpoints(tmp_path / "Nano")[-1]).model
    assert found.tensors.keys() == trained.keys()
    for name, tensor in trained.items():
        assert torch.equal(found.load(name, torch.float32), tensor), name


def test_a_run_over_a_dense_start_leaves_a_delta_of_what_trained(tmp_path):
    base = save_tiny(tmp_path / "base")
    run = run_in(
        tmp_path / "run",
        start=str(base),
        trains=("layers.2.*",),
        objective=Numbers(has_tokenizer=False),
    )
    start(run, resume=False)
    found = open_checkpoint(tmp_path / "run")
    assert found.base is not None and found.base.spec == str(base)
    own = found.tensors.keys() - found.base.supplies
    assert own and all(name.startswith("layers.2.") for name in own)
    assert found.chat_template == CHATML and not (tmp_path / "run/model/tokenizer.json").exists()
    trained = read_tensors(checkpoints(run.folder)[-1]).model
    dense = open_checkpoint(base)
    for name in found.tensors:
        expected = trained.get(name, dense.load(name, torch.float32))
        assert torch.equal(found.load(name, torch.float32), expected), name


def test_a_run_over_a_delta_leaves_a_delta_over_the_same_base(tmp_path):
    delta = upcycle(str(save_tiny(tmp_path / "base")), tmp_path / "delta")
    run = run_in(tmp_path / "run", start=str(delta.path), trains=("*.experts.down",))
    start(run, resume=False)
    found = open_checkpoint(tmp_path / "run")
    assert found.base is not None and delta.base is not None
    assert (found.base.sha256, found.base.supplies) == (delta.base.sha256, delta.base.supplies)
    name = "layers.0.experts.down"
    assert torch.equal(
        found.load("think.step", torch.float32), delta.load("think.step", torch.float32)
    )
    assert not torch.equal(found.load(name, torch.float32), delta.load(name, torch.float32))


def test_new_parts_that_do_not_train_are_kept(tmp_path):
    base = save_tiny(tmp_path / "base")
    config = replace(open_checkpoint(base).config, think=ADAPTIVE["think"])
    start(
        run_in(tmp_path / "run", start=str(base), model=config, trains=("norm.weight",)),
        resume=False,
    )
    found = open_checkpoint(tmp_path / "run")
    assert found.config.think == ADAPTIVE["think"]
    assert torch.isfinite(logits(found)).all()
    assert not found.base.supplies & {name for name in found.tensors if name.startswith("think.")}


def test_training_all_of_a_dense_start_leaves_a_model_that_needs_no_base(tmp_path):
    base = save_tiny(tmp_path / "base")
    start(run_in(tmp_path / "run", start=str(base)), resume=False)
    before = logits(open_checkpoint(tmp_path / "run"))
    (base / "model.safetensors").unlink()
    found = open_checkpoint(tmp_path / "run")
    assert found.base is None and torch.equal(logits(found), before)


def test_a_run_may_begin_with_the_default_model(tmp_path, monkeypatch):
    base = save_tiny(tmp_path / "base")
    monkeypatch.setattr(hub, "DEFAULT_MODEL", str(base))
    start(run_in(tmp_path / "run", start="default", trains=("norm.weight",)), resume=False)
    assert open_checkpoint(tmp_path / "run").base.spec == str(base)


def test_a_run_that_goes_on_replaces_its_model(tmp_path):
    run = run_in(tmp_path / "run", model=tiny_config())
    start(run, resume=False)
    first = logits(open_checkpoint(run.folder))
    start(replace(run, fit=FitConfig(num_steps=4)), resume=True)
    assert not torch.equal(logits(open_checkpoint(run.folder)), first)
    publish(run.folder)
    assert sorted(path.name for path in run.folder.iterdir() if path.is_dir()) == [
        "model", "speech", "step-00000002", "step-00000004",
    ]  # fmt: skip


def test_a_model_can_start_from_a_finished_run(tmp_path):
    start(run_in(tmp_path / "first", model=tiny_config()), resume=False)
    second = run_in(
        tmp_path / "second", start=str(tmp_path / "first"), objective=Numbers(has_tokenizer=False)
    )
    start(second, resume=False)
    found = open_checkpoint(second.folder)
    assert found.base is None and found.chat_template == CHATML
    assert math.isfinite(float(logits(found).sum()))


def test_an_unfinished_run_says_how_to_get_its_model(tmp_path):
    run = run_in(
        tmp_path / "run",
        model=tiny_config(),
        fit=FitConfig(num_steps=5, max_seconds=1e-6, saving=SavingConfig(every_steps=1)),
    )
    assert start(run, resume=False).stopped == "max_seconds"
    with pytest.raises(WeightsError, match="left no model yet.*heddle export"):
        open_checkpoint(run.folder)
    assert trained_model(run.folder).config == tiny_config()


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_what_several_ranks_wrote_becomes_the_same_model(tmp_path):
    run = run_in(tmp_path / "one", model=tiny_config())
    start(run, resume=False)
    saved = checkpoints(run.folder)[-1]
    tensors = read_tensors(saved)
    many = tmp_path / "many"
    with new_checkpoint(many, read_record(saved), keep=1) as unfinished:
        dist.save_shards(unfinished / SHARDS, tensors.model | tensors.optimiser)
    shutil.copytree(run.folder / "speech", many / "speech")
    publish(many)
    assert torch.equal(logits(open_checkpoint(many)), logits(open_checkpoint(run.folder)))


def test_a_run_without_a_tokenizer_leaves_no_model(tmp_path):
    run = run_in(tmp_path / "run", model=tiny_config(), objective=Numbers(has_tokenizer=False))
    start(run, resume=False)
    assert not (run.folder / "model").exists()
    with pytest.raises(WeightsError, match="names no tokenizer"):
        trained_model(run.folder)


def test_a_folder_without_checkpoints(tmp_path):
    with pytest.raises(WeightsError, match="no checkpoint to make a model of"):
        trained_model(tmp_path)


def test_a_start_of_another_shape(tmp_path):
    base = save_tiny(tmp_path / "base")
    run = run_in(tmp_path / "run", start=str(base), model=tiny_config(ffn_width=64))
    with pytest.raises(ConfigError, match="does not fit the run's model"):
        start(run, resume=False)


def test_a_run_needs_a_model_or_a_start(tmp_path):
    with pytest.raises(ConfigError, match="needs a model, or a start"):
        start(run_in(tmp_path / "run"), resume=False)
