from pathlib import Path

import pytest
import torch

from heddle.model.memory import attention
from heddle.train.forward import exact_depth, packed_batch
from heddle.train.initial import first_network
from recipes.experiments.chains import questions
from recipes.experiments.depth import Form
from recipes.experiments.experiment import as_markdown, figures_block, read_page
from recipes.experiments.last_loop import LastLoop
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


def keys(*shape):
    return torch.randn(*shape, 4, 32)


def test_what_is_read_later_sees_the_last_loop_alone():
    memory = LastLoop(2)
    q_THC, first_TKC, last_TKC = keys(6), keys(6), keys(6)
    memory.attend(0, q_THC, first_TKC, first_TKC)
    again = memory.attend_again(0, q_THC, last_TKC, last_TKC, loop=2, rows=torch.arange(6))
    last_STKC = last_TKC.unflatten(0, (2, 3))
    expected = attention(q_THC.unflatten(0, (2, 3)), last_STKC, last_STKC, is_causal=True)
    torch.testing.assert_close(again, expected.flatten(0, 1))
    q_SHC, new_SKC = keys(2), keys(2)
    seen_SLKC = torch.cat([last_STKC, new_SKC[:, None]], dim=1)
    torch.testing.assert_close(
        memory.attend(0, q_SHC, new_SKC, new_SKC),
        attention(q_SHC[:, None], seen_SLKC, seen_SLKC)[:, 0],
    )


def test_tokens_that_stop_keep_their_last_keys():
    memory = LastLoop(2)
    q_THC, first_TKC = keys(6), keys(6)
    memory.attend(0, q_THC, first_TKC, first_TKC)
    rows = torch.tensor([1, 2, 5])
    q_NHC, again_NKC = keys(3), keys(3)
    found = memory.attend_again(0, q_NHC, again_NKC, again_NKC, loop=2, rows=rows)
    newest_TKC = first_TKC.index_copy(0, rows, again_NKC)
    for each, row in enumerate(rows.tolist()):
        seen = newest_TKC[row // 3 * 3 : row + 1][None]
        expected = attention(q_NHC[each][None, None], seen, seen)[0, 0]
        torch.testing.assert_close(found[each], expected)


@torch.no_grad()
def test_at_one_loop_all_ways_are_the_same(model):
    batch = questions("cups", "test", 4, range(3))
    plain = model(packed_batch(batch)).hidden_TD
    for remember in CACHES.values():
        torch.testing.assert_close(
            model(packed_batch(batch), remember(model, batch)).hidden_TD, plain
        )
    torch.testing.assert_close(token_by_token(model, batch, 1).hidden_TD, plain)


@torch.no_grad()
def test_at_more_loops_they_differ_where_they_should(model):
    batch = questions("cups", "test", 8, range(2))
    depth = exact_depth(3, len(batch.token_T))
    length = batch.bounds_S1[1]

    def states(memory):
        return model(packed_batch(batch, depth), memory).hidden_TD.unflatten(0, (2, length))

    first = states(CACHES["first-loop"](model, batch))
    last = states(CACHES["last-loop"](model, batch))
    served = token_by_token(model, batch, 3).hidden_TD.unflatten(0, (2, length))
    torch.testing.assert_close(served[:, 0], last[:, 0])  # nothing before it
    assert (served[:, 1:] - last[:, 1:]).abs().amax(-1).min() > 1e-4
    assert (first - last).abs().amax(-1).min() > 1e-4


@torch.no_grad()
def test_a_block_ends_among_the_steps(model):
    """A later loop in the second block must not see later loops of the first."""
    batch = questions("cups", "test", 8, range(1))
    assert 4 < BLOCK_TOKENS < batch.bounds_S1[1] - 3
    memory = CACHES["first-loop"](model, batch)
    rows = torch.arange(batch.bounds_S1[1])
    first, later = keys(len(rows)), keys(len(rows))
    memory.attend(0, first, first, first)
    before = memory.attend_again(0, first, later, later, loop=2, rows=rows)
    later[BLOCK_TOKENS - 1] += 1
    after = memory.attend_again(0, first, later, later, loop=2, rows=rows)
    changed = (before != after).flatten(1).any(1).nonzero()[:, 0].tolist()
    assert changed == [BLOCK_TOKENS - 1]


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
