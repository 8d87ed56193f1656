"""The stages of an upcycled model, a step of each, in their order, on a base of a few thousand."""

import json
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

from heddle.errors import ConfigError
from heddle.train.overrides import override
from heddle.train.run import load_recipe, start
from heddle.weights.checkpoint import open_checkpoint
from heddle.weights.delta import upcycle
from tests.tiny import save_tiny
from tests.train.small import RECIPE

RECIPES = Path(RECIPE).parent
ORDER = ("upcycle_heal", "cluster_experts", "loop_curriculum", "halting", "memory_pooler")
SMALL = (
    "fit.num_steps=2",
    "fit.num_microbatches=1",
    "fit.recompute=false",
    "optimiser.schedule.warmup_steps=0",
    "optimiser.schedule.decay_steps=0",
    "objective.corpus.tokens_per_batch=512",
    "objective.corpus.max_sequence=512",
    "objective.corpus.num_levels=2",
    "objective.corpus.num_validation=1",
)
ONLY = {
    "loop_curriculum": ("objective.depth.last_mean=3", "objective.depth.deep_share=0"),
    "halting": ("objective.most_loops=3",),
    "memory_pooler": ("memory.window_blocks=1",),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Hold the upcycled base, and what each stage made of the one before it."""
    folder = tmp_path_factory.mktemp("stages")
    upcycle(str(save_tiny(folder / "base", num_layers=4)), folder / "upcycled")
    made = {"upcycled": folder / "upcycled"}
    for name in ORDER:
        run = override(load_recipe(str(RECIPES / f"{name}.py")), SMALL + ONLY.get(name, ()))
        before = list(made.values())[-1]
        run = replace(run, folder=folder / name, start=str(before))
        assert start(run, resume=False).step == 2
        made[name] = run.folder
    return made


@pytest.mark.parametrize("name", ORDER)
def test_a_stage_moves_what_it_trains_and_nothing_else(models, name):
    before = open_checkpoint(models[list(models)[list(models).index(name) - 1]])
    after = open_checkpoint(models[name])
    patterns = load_recipe(str(RECIPES / f"{name}.py")).trains
    moved = {
        tensor
        for tensor in before.tensors
        if not torch.equal(before.load(tensor, torch.float32), after.load(tensor, torch.float32))
    }
    trained = {t for t in after.tensors if any(fnmatch(t, pattern) for pattern in patterns)}
    balances = {tensor for tensor in after.tensors if tensor.endswith("balance_E")}
    assert moved <= trained | balances
    assert moved or name == "memory_pooler"  # its poolers are new
    assert (after.config.memory is not None) == (name == "memory_pooler")


@pytest.mark.parametrize("name", ORDER)
def test_a_stage_says_how_it_does(models, name):
    lines = (models[name] / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[-1])
    told = {
        "upcycle_heal": {"cross_entropy", "cluster_loss", "norm_drift_loss", "mean_loops"},
        "cluster_experts": {"cross_entropy", "cluster_accuracy", "balance_loss"},
        "loop_curriculum": {"first_cross_entropy", "cross_entropy", "hard_share"},
        "halting": {"hard_accuracy", "settled_accuracy", "settled_share"},
        "memory_pooler": {"divergence", "output_error", "agreement"},
    }[name]
    assert told <= last.keys() and last["validation_loss"] > 0


def test_loops_alone_learn_sums_in_chats(tmp_path):
    upcycle(str(save_tiny(tmp_path / "base")), tmp_path / "up", has_fabric=False, max_loops=4)
    small = (*SMALL, "objective.corpus.text=[]", "fit.dtype=float32")
    run = override(load_recipe(str(RECIPES / "think_sums.py")), small)
    run = replace(run, folder=tmp_path / "run", start=str(tmp_path / "up"))
    assert start(run, resume=False).step == 2
    before, after = open_checkpoint(tmp_path / "up"), open_checkpoint(tmp_path / "run")
    moved = {
        tensor.rsplit(".", 1)[0]
        for tensor in before.tensors
        if not torch.equal(before.load(tensor, torch.float32), after.load(tensor, torch.float32))
    }
    assert {"think", "think.mix.up", "think.loras.0.down.up"} <= moved
    assert all(name.startswith("think") and "read" not in name for name in moved)


def test_a_stage_is_documented():
    told = (RECIPES.parent / "docs" / "training.md").read_text(encoding="utf-8")
    assert all(f"heddle train {name}" in told for name in (*ORDER, "think_sums"))


def test_the_pooler_needs_a_start(tmp_path):
    run = replace(load_recipe(str(RECIPES / "memory_pooler.py")), folder=tmp_path, start=None)
    with pytest.raises(ConfigError, match="a run needs a model, or a start"):
        start(run, resume=False)
