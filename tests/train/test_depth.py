from dataclasses import replace

import numpy as np
import pytest
import torch

from heddle.errors import ConfigError
from heddle.model.config import ThinkConfig
from heddle.train.depth import DepthSchedule, check_depth
from heddle.train.forward import exact_depth
from tests.train.routed import CONFIG, routed_batch

PLAIN = DepthSchedule(first_mean=2.0, last_mean=6.0, deep_share=0.0)


@pytest.mark.parametrize("mean", [1.0, 2.0, 6.0])
def test_draws_have_the_mean_and_the_lognormal_s_spread(mean):
    schedule = replace(PLAIN, first_mean=mean)
    loops = schedule.draw(np.random.default_rng(0), 40_000, 0.0)
    assert loops.min() >= 1 and loops.max() <= 32
    assert loops.mean() == pytest.approx(mean, rel=0.02)
    # Var = E[rate] + Var[rate], and a lognormal's variance is mean² (exp σ² - 1).
    rate = mean - 1
    variance = rate + rate**2 * (np.exp(0.25) - 1)
    assert loops.var() == pytest.approx(variance, rel=0.08)


def test_no_draw_leaves_its_bounds_and_the_deep_share_is_deep():
    schedule = DepthSchedule(first_mean=12.0, last_mean=12.0, least=2, most=20, deep_share=0.5)
    loops = schedule.draw(np.random.default_rng(0), 20_000, 0.0)
    assert loops.min() == 2 and loops.max() == 20
    few = DepthSchedule(first_mean=1.0, last_mean=1.0, deep_share=0.1)
    deep = few.draw(np.random.default_rng(0), 20_000, 0.0)
    assert set(np.unique(deep)) == {1, *range(16, 33)}
    assert (deep > 1).mean() == pytest.approx(0.1, rel=0.1)


def test_the_mean_rises_slowly_at_first_and_then_stays():
    means = [PLAIN.mean(progress) for progress in (0.0, 0.375, 0.75, 0.9)]
    assert means[0] == 2 and means[2] == means[3] == 6
    assert 2 < means[1] < 4
    assert replace(PLAIN, rise=0.0).mean(0.0) == 6


def test_a_step_s_micro_batches_share_a_draw_that_the_next_step_does_not():
    batch = routed_batch()
    depths = []
    for step in range(20):
        one, two = (PLAIN.depth(batch, step / 20) for _ in range(2))
        assert torch.equal(one.max_T, two.max_T) and not one.auto_T.any()
        assert (one.max_T == one.max_T[0]).all() and len(one.max_T) == len(batch.token_T)
        depths.append(int(one.max_T[0]))
    assert len(set(depths)) > 3


def test_micro_batches_and_sequences_draw_by_the_loop_s_seed():
    batch = routed_batch()
    for per in ("microbatch", "sequence"):
        schedule = replace(PLAIN, first_mean=6.0, per=per)
        drawn = []
        for _ in range(2):
            torch.manual_seed(5)
            drawn.append([schedule.depth(batch, 0.0).max_T for _ in range(6)])
        assert all(map(torch.equal, *drawn))
        assert len({tuple(depth.tolist()) for depth in drawn[0]}) > 1
    parts = drawn[0][0].split(12)  # three sequences of twelve tokens
    assert all((part == part[0]).all() for part in parts)
    assert len({int(part[0]) for depth in drawn[0] for part in depth.split(12)}) > 1


def test_validation_takes_the_last_mean():
    depth = DepthSchedule(last_mean=5.0, backprop_loops=0).depth(routed_batch(), 1.0)
    assert (depth.max_T == 5).all() and depth.backprop_loops is None


def test_a_network_is_not_asked_for_more_loops_than_it_takes():
    shallow = replace(CONFIG, think=ThinkConfig(first_layer=1, num_layers=1, max_loops=4))
    check_depth(shallow, exact_depth(4, 3))
    with pytest.raises(ConfigError, match="5 loops are asked of a network that takes 4 at most"):
        check_depth(shallow, exact_depth(5, 3))
    with pytest.raises(ConfigError, match="2 loops are asked of a network that takes 1"):
        check_depth(replace(CONFIG, think=None), exact_depth(2, 3))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"most": 33}, "from 1 to 32, not 1 and 33"),
        ({"least": 0}, "not 0 and 32"),
        ({"last_mean": 40.0}, "last_mean must lie between 1 and most"),
        ({"deep_share": 2.0}, "between 0 and 1"),
        ({"backprop_loops": -1}, "must not be negative"),
    ],
)
def test_impossible_schedules_are_refused(fields, told):
    with pytest.raises(ConfigError, match=told):
        DepthSchedule(**fields)
