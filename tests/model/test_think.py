"""Blocks of tokens think one after the other, and see what those before them thought."""

import pytest
import torch

from heddle.model.batch import Depth, Packed, pack
from heddle.model.memory import WholeSequences, attention
from heddle.train.rollout import chosen_experts
from tests.model.test_adaptive import CONFIG, lively, run, sequence

BLOCK = 8
KINDS = ("plain", "exact", "auto", "uneven")


def depth_of(kind: str, length: int) -> Depth:
    """One loop, four for all, as many as tokens choose, or one, two and four in turn."""
    max_T = torch.full((length,), 1 if kind == "plain" else 4)
    if kind == "uneven":
        max_T = torch.tensor([1, 4, 2])[torch.arange(length) % 3]
    return Depth(max_T, torch.full((length,), kind == "auto"))


def packed(parts: list[tuple[str, list[int]]]) -> Packed:
    """Pack sequences, each of its own kind of depth."""
    depths = [depth_of(kind, len(tokens)) for kind, tokens in parts]
    depth = Depth(*(torch.cat(each) for each in zip(*(d[:2] for d in depths), strict=True)))
    return pack([tokens for _, tokens in parts])._replace(depth=depth)


def test_sequences_of_all_depths_think_beside_each_other_as_alone():
    model = lively()
    lengths = (30, 3, 17, 24, 24, 9)
    parts = [
        (kind, sequence(length, seed=length))
        for kind, length in zip(
            ("uneven", "auto", "plain", "exact", "auto", "exact"), lengths, strict=True
        )
    ]
    together = run(model, packed(parts))
    alone = [run(model, packed([part])) for part in parts]
    assert len(together.trace.loops_T[:30].unique()) == 3
    for name in ("loops_T", "hard_logit_T", "settled_logit_T", "cluster_TG"):
        apart = torch.cat([getattr(out.trace, name) for out in alone])
        torch.testing.assert_close(getattr(together.trace, name), apart, atol=1e-3, rtol=1e-3)
    for name in ("first_TD", "before_TD", "last_TD"):
        apart = torch.cat([getattr(out.trace.states, name) for out in alone])
        whole = getattr(together.trace.states, name)
        torch.testing.assert_close(whole, apart, atol=1e-3, rtol=1e-3)
    start = 0
    chosen_TRYE = chosen_experts(CONFIG, together.trace)
    for out in alone:
        expected = chosen_experts(CONFIG, out.trace)
        here = chosen_TRYE[start : start + len(expected)]
        assert torch.equal(here[:, : expected.shape[1]], expected)
        assert not here[:, expected.shape[1] :].any()
        start += len(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_before_it_are_all_that_a_block_needs_to_know(kind):
    model, tokens = lively(), sequence(3 * BLOCK + 5)
    whole = run(model, packed([(kind, tokens)])).trace.states.last_TD
    for length in (BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 4):
        part = run(model, packed([(kind, tokens[:length])])).trace.states.last_TD
        torch.testing.assert_close(part, whole[:length], atol=2e-4, rtol=1e-4)


def test_a_closed_block_is_seen_by_the_last_keys_of_each_token():
    """Of 2 sequences of 20 tokens; in the first block tokens go through one, two or three loops."""
    torch.manual_seed(0)
    memory = WholeSequences((0, 20, 40), block_tokens=BLOCK)
    q, k, v = (torch.randn(40, heads, 16) for heads in (6, 2, 2))
    first_rows, second_rows = (
        torch.cat([torch.arange(start, start + BLOCK) + 20 * n for n in range(2)])
        for start in (0, BLOCK)
    )
    first = memory.part(first_rows)
    first.attend(0, q[first_rows], k[first_rows], v[first_rows])
    last_k, last_v = k.clone(), v.clone()
    for loop, rows in ((2, torch.tensor([1, 2, 3, 9, 15])), (3, torch.tensor([2, 9]))):
        new_k, new_v = torch.randn(2, len(rows), 2, 16)
        first.attend_again(0, q[first_rows[rows]], new_k, new_v, loop=loop, rows=rows)
        last_k[first_rows[rows]], last_v[first_rows[rows]] = new_k, new_v
    first.close_blocks()
    second = memory.part(second_rows)
    out = second.attend(0, q[second_rows], k[second_rows], v[second_rows]).unflatten(0, (2, -1))
    for number in range(2):
        here = slice(20 * number, 20 * number + 2 * BLOCK)
        expected = attention(q[None, here], last_k[None, here], last_v[None, here], is_causal=True)
        torch.testing.assert_close(out[number], expected[0, BLOCK:])


def test_a_thought_reaches_the_next_block_and_gradients_come_back():
    """Tokens of the second block take one loop, so that only the first one's can teach a step."""
    model, tokens = lively(), sequence(2 * BLOCK)
    is_early_T = torch.arange(2 * BLOCK) < BLOCK
    states = []
    for loops in (2, 3):
        depth = Depth(torch.where(is_early_T, loops, 1), torch.zeros(2 * BLOCK, dtype=torch.bool))
        out = model(pack([tokens])._replace(depth=depth))
        states.append(out.trace.states.last_TD[-1])
    assert (states[0] - states[1]).abs().max() > 1e-3
    states[1].sum().backward()
    assert model.think.step.grad[:2].abs().sum(1).min() > 0
    assert model.think.step.grad[2:].abs().max() == 0


def test_where_no_block_waits_for_another_all_go_at_once():
    model, passes = lively(), []
    model.layers[1].register_forward_hook(lambda *_: passes.append(1))
    for tokens, loops, num_passes in (
        (pack([sequence(50)]), 1, 1),
        (pack([sequence(BLOCK), sequence(5)], loops=3), 3, 3),
        (packed([("plain", sequence(50)), ("exact", sequence(2 * BLOCK + 1))]), 4, 3 * 4),
    ):
        passes.clear()
        assert run(model, tokens).trace.loops_T.max() == loops
        assert len(passes) == num_passes
