"""The loop's promises for a network with experts and loops: exact resume, recompute."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from heddle.train.depth import DepthSchedule
from heddle.train.overrides import override
from heddle.train.run import load_recipe
from tests.train.routed import routed_run
from tests.train.small import RECIPE, assert_same_bits, newest, train

SHORT = ("fit.num_steps=4", "optimiser.schedule.decay_steps=0", "optimiser.schedule.warmup_steps=0")
PER_SEQUENCE = DepthSchedule(per="sequence", first_mean=2.0, last_mean=3.0, backprop_loops=0)


@pytest.mark.parametrize("depth", [None, PER_SEQUENCE], ids=["step", "sequence"])
def test_n_and_n_steps_equal_2n_bit_for_bit(tmp_path, depth):
    run = routed_run(tmp_path / "whole", depth=depth, num_steps=8)
    train(run)
    halved = replace(run, folder=tmp_path / "halved")
    stage = halved.objective.stage(None)

    def interrupted(cursor, **ranks):
        for count, pair in enumerate(stage.batches(cursor, **ranks)):
            if count == 7:
                signal.raise_signal(signal.SIGINT)
            yield pair

    assert train(halved, stage=replace(stage, batches=interrupted)).step == 4
    train(halved, resume=True)
    assert_same_bits(newest(run.folder), newest(halved.folder))
    balance_E = newest(run.folder).model["layers.0.experts.router.balance_E"]
    assert balance_E.any(), "the routers' balance is part of what is resumed"


def test_recompute_changes_nothing(tmp_path):
    """Layers that later loops run again read the first loop's keys, which are not made anew."""
    train(routed_run(tmp_path / "kept"))
    train(routed_run(tmp_path / "again", recompute=True))
    assert_same_bits(newest(tmp_path / "kept"), newest(tmp_path / "again"))


def test_a_run_on_two_threads_is_the_same_every_time(tmp_path):
    """Gradients that tokens share are summed in one order, however threads are scheduled."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run = load_recipe(str(Path(RECIPE).with_name("distill_nano.py")))
        runs = [override(run, [*SHORT, f"folder={tmp_path / name}"]) for name in "abc"]
        for run in runs:
            train(run)
    finally:
        torch.set_num_threads(num_threads)
    first, *others = (newest(run.folder) for run in runs)
    for other in others:
        assert_same_bits(first, other)
