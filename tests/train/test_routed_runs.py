"""The loop's promises for a network with experts and loops: exact resume, recompute."""

import signal
from dataclasses import replace

import pytest

from heddle.train.depth import DepthSchedule
from tests.train.routed import routed_run
from tests.train.small import assert_same_bits, newest, train

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
