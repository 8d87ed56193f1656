from pathlib import Path

import pytest
import torch

from heddle.train.forward import exact_depth, packed_batch
from heddle.train.initial import first_network
from recipes.experiments.chains import questions
from recipes.experiments.depth import Form
from recipes.experiments.experiment import as_markdown, figures_block, read_page
from recipes.experiments.loop_cache import (
    ASKED_STEPS,
    BLOCK_TOKENS,
    CACHES,
    EXPERIMENT,
    NETWORK,
    tables,
    token_by_token,
    trial,
)

TINY = Form(num_steps=3, num_halting_steps=0, num_asked=3, batch_tokens=64)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = first_network(NETWORK, None, seed=0).eval()
    for parameter in model.parameters():  # a fresh network adds nothing to its embeddings
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


@torch.no_grad()
def test_at_one_loop_all_ways_are_the_same(model):
    batch = questions("cups", "test", 4, range(3))
    plain = model(packed_batch(batch)).hidden_TD
    for remember in CACHES.values():
        torch.testing.assert_close(
            model(packed_batch(batch), remember(model, batch)).hidden_TD, plain
        )
    torch.testing.assert_close(token_by_token(model, batch, 1).hidden_TD, plain)


@pytest.fixture(scope="module")
def asked():
    """Questions that go on in a second block."""
    batch = questions("cups", "test", 8, range(2))
    assert 4 < BLOCK_TOKENS < batch.bounds_S1[1] - 3 < 2 * BLOCK_TOKENS
    return batch


@torch.no_grad()
def test_the_caches_differ_behind_the_first_block_alone(model, asked):
    depth = exact_depth(3, len(asked.token_T))
    outs = [model(packed_batch(asked, depth), cache(model, asked)) for cache in CACHES.values()]
    first, last = (out.trace.states.last_TD.unflatten(0, (2, -1)) for out in outs)
    assert torch.equal(first[:, :BLOCK_TOKENS], last[:, :BLOCK_TOKENS])
    assert (first - last)[:, BLOCK_TOKENS:].abs().amax(-1).min() > 1e-4


@torch.no_grad()
def test_what_is_served_is_what_is_read_at_once(model, asked):
    whole = model(packed_batch(asked, exact_depth(3, len(asked.token_T)))).hidden_TD
    torch.testing.assert_close(token_by_token(model, asked, 3).hidden_TD, whole)


@torch.no_grad()
def test_with_the_first_loop_no_thought_leaves_its_block(model, asked):
    """More loops in the first block show behind it by the other cache alone."""
    shallow = exact_depth(3, len(asked.token_T))
    is_early_T = asked.position_T < BLOCK_TOKENS
    deep = shallow._replace(max_T=torch.where(is_early_T, 5, 3))
    for cache, sees_thoughts in (("first-loop", False), ("last-loop-by-block", True)):
        states = [
            model(packed_batch(asked, depth), CACHES[cache](model, asked)).trace.states.first_TD
            for depth in (shallow, deep)
        ]
        moved_T = (states[0] - states[1]).abs().amax(-1) > 1e-5
        assert not moved_T[is_early_T].any()
        assert bool(moved_T[~is_early_T].any()) == sees_thoughts


def test_every_arm_runs_and_the_tables_take_what_it_finds(tmp_path):
    found = {}
    for cache in EXPERIMENT.arms:
        figures = trial(cache, TINY, 0, tmp_path / cache)
        assert set(figures["side by side"]) == {str(steps) for steps in ASKED_STEPS}
        found[cache] = {0: figures, 1: figures}
    assert all(as_markdown(table) for table in tables(found))


@pytest.mark.skipif(
    not Path("docs/experiments/loop_cache.json").exists(), reason="the experiment was not run yet"
)
def test_the_page_shows_its_figures():
    page = Path("docs/experiments/loop_cache.md").read_text(encoding="utf-8")
    assert figures_block(EXPERIMENT, read_page(EXPERIMENT)) in page
