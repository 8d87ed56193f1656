"""Fabric and thinking block: silent when new, causal, bounded, adaptive token by token."""

from dataclasses import replace

import pytest
import torch

from heddle.model.batch import Depth, Packed, pack
from heddle.model.config import Expert, FabricConfig, ThinkConfig
from heddle.model.experts import Experts
from heddle.model.memory import WholeSequences, running_mean
from heddle.model.router import Gate, Router, Routing, cost_of_experts
from heddle.model.transformer import Transformer
from tests.tiny import tiny_config, tiny_model

FABRIC = FabricConfig(
    experts=(
        Expert(0, 16), Expert(1, 24), Expert(1, 8), Expert(2, 32), Expert(3, 8), Expert(4, 8),
        Expert(0, 0),
    )
)  # fmt: skip
THINK = ThinkConfig(first_layer=1, num_layers=2, adapter_rank=8, lora_rank=4, block_tokens=8)
CONFIG = tiny_config(num_layers=4, fabric=FABRIC, think=THINK)


def sequence(length: int, *, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 512, (length,), generator=generator).tolist()


def lively(config=CONFIG) -> Transformer:
    """An adaptive network none of whose parts is still zero."""
    model = tiny_model(config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name or "experts" in name or "think" in name:
                parameter.normal_(0, 0.2)
        model.think.gate.bias.fill_(0.0)
    return model


def run(model: Transformer, packed: Packed):
    with torch.inference_mode():
        return model(packed)


def test_new_parts_leave_the_base_bit_identical_at_one_loop():
    base = tiny_model(tiny_config(num_layers=4))
    adaptive = Transformer(CONFIG).eval()
    missing, unexpected = adaptive.load_state_dict(base.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith(("gate.", "think.")) or ".experts." in name for name in missing)
    packed = pack([sequence(40), sequence(7, seed=1)])
    assert torch.equal(run(adaptive, packed).logits_NV, run(base, packed).logits_NV)


@pytest.mark.parametrize("loops", [1, 2, 5])
def test_no_token_sees_a_later_one(loops):
    model, tokens = lively(), sequence(37)
    whole = run(model, pack([tokens], loops=loops))
    for length in (1, 8, 9, 20):
        part = run(model, pack([tokens[:length]], loops=loops))
        assert torch.allclose(part.logits_NV, whole.logits_NV[:length], atol=2e-4)
        assert torch.allclose(part.trace.cluster_TG, whole.trace.cluster_TG[:length], atol=1e-5)


def test_packed_sequences_do_not_see_each_other():
    model, parts = lively(), [sequence(11), sequence(30, seed=1), sequence(3, seed=2)]
    together = run(model, pack(parts, loops=4)).logits_NV
    alone = torch.cat([run(model, pack([part], loops=4)).logits_NV for part in parts])
    assert torch.allclose(together, alone, atol=2e-4)


def test_each_loop_changes_the_answer_and_is_counted():
    model, tokens = lively(), sequence(20)
    outs = [run(model, pack([tokens], loops=loops)) for loops in (1, 2, 3)]
    for out, loops in zip(outs, (1, 2, 3), strict=True):
        assert out.trace.loops_T.tolist() == [loops] * 20
        assert len(out.trace.choices) == 2 + 2 * loops
    assert not torch.allclose(outs[0].logits_NV, outs[1].logits_NV, atol=1e-2)
    assert not torch.allclose(outs[1].logits_NV, outs[2].logits_NV, atol=1e-2)


def test_exact_depths_may_differ_from_token_to_token():
    model, tokens = lively(), sequence(24)
    packed = pack([tokens], loops=4)
    mixed = torch.tensor([1, 4, 2] * 8)
    out = run(model, packed._replace(depth=Depth(mixed, packed.depth.auto_T)))
    assert out.trace.loops_T.tolist() == mixed.tolist()
    first_alone = run(model, pack([tokens[:1]])).logits_NV
    assert torch.allclose(out.logits_NV[:1], first_alone, atol=1e-4)


def test_in_automatic_depth_only_hard_tokens_think_until_they_settle():
    model, tokens = lively(), sequence(60)
    packed = pack([tokens], loops=6)
    out = run(model, packed._replace(depth=Depth(packed.depth.max_T, torch.ones(60, dtype=bool))))
    hard = out.trace.hard_logit_T > 0
    assert hard.any() and not hard.all()
    assert (out.trace.loops_T[~hard] == 1).all()
    assert (out.trace.loops_T[hard] >= 2).all()
    early = hard & (out.trace.loops_T < 6)
    assert early.any() and (out.trace.settled_logit_T[early] > 0).all()


class Said(torch.nn.Module):
    """A reading that finds every token hard, and settled after some loops."""

    def __init__(self, *settled_after: int):
        super().__init__()
        self.settled_after, self.loop = settled_after, 0

    def forward(self, h_TD):
        self.loop += 1
        settled = 1.0 if self.loop in self.settled_after else -1.0
        return torch.tensor([1.0, settled]).expand(len(h_TD), 2)


@pytest.mark.parametrize(("patience", "loops"), [(0, 2), (1, 5), (2, 6), (3, 8)])
def test_with_patience_settled_must_be_said_more_often_in_a_row(patience, loops):
    model = lively(replace(CONFIG, think=replace(THINK, patience=patience)))
    model.think.read = Said(2, 4, 5, 6)
    packed = pack([sequence(5)], loops=8)
    chooses = torch.ones(5, dtype=torch.bool)
    out = run(model, packed._replace(depth=Depth(packed.depth.max_T, chooses)))
    assert out.trace.loops_T.tolist() == [loops] * 5


def test_later_loops_see_their_own_keys_only_inside_a_block():
    """With the first loop's keys held fixed, a change of loop 2 stays inside its block."""
    memory = WholeSequences((0, 16), block_tokens=8)
    q, k, v = (torch.randn(16, heads, 16) for heads in (6, 2, 2))
    memory.attend(0, q, k, v)
    rows = torch.arange(16)
    own_v = torch.randn(16, 2, 16)
    before = memory.attend_again(0, q, k, own_v, loop=2, rows=rows)
    changed = own_v.clone()
    changed[5] += 1.0
    after = memory.attend_again(0, q, k, changed, loop=2, rows=rows)
    moved = [i for i in range(16) if not torch.equal(before[i], after[i])]
    assert moved == [5, 6, 7]


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_the_running_mean_is_the_recurrence(length):
    x, state = torch.randn(length, 3), torch.randn(3)
    [got] = running_mean(x[None], state[None], decay=0.9)
    for i in range(length):
        state = 0.9 * state + 0.1 * x[i]
        assert torch.allclose(got[i], state, atol=1e-5)


def routing(num_tokens: int, *, fabric: FabricConfig = FABRIC, steer=None, seed=0) -> Routing:
    generator = torch.Generator().manual_seed(seed)
    clusters = torch.rand(num_tokens, 5, generator=generator)
    steer_TG = None if steer is None else torch.tensor(steer).expand(num_tokens, 5)
    return Gate(fabric, width=96).routing(clusters / clusters.sum(-1, keepdim=True), steer_TG)


def test_a_token_takes_at_most_three_experts_and_no_more_than_it_needs():
    torch.manual_seed(0)
    router = Router(FABRIC, width=96)
    choice = router(torch.randn(200, 96) * 2, routing(200))
    chosen = choice.weight_TE > 0
    assert chosen.sum(-1).min() >= 1 and chosen.sum(-1).max() <= 3
    assert torch.allclose(choice.weight_TE.sum(-1), torch.ones(200))
    mass = (choice.probability_TE * chosen).sum(-1)
    smallest = torch.where(chosen, choice.probability_TE, 2).min(-1).values
    several = chosen.sum(-1) > 1
    assert (mass[several] - smallest[several] < FABRIC.mass).all()


def test_balance_changes_the_choice_and_never_the_weights_formula():
    torch.manual_seed(0)
    router, x, given = Router(FABRIC, width=96), torch.randn(50, 96), routing(50)
    before = router(x, given)
    router.balance_E[0] = 10.0
    after = router(x, given)
    assert torch.equal(before.probability_TE, after.probability_TE)
    assert (after.weight_TE[:, 0] > 0).all()
    chosen = after.weight_TE > 0
    expected = after.probability_TE * chosen
    assert torch.allclose(after.weight_TE, expected / expected.sum(-1, keepdim=True))


def test_steering_and_cost_move_the_choice():
    torch.manual_seed(0)
    router, x, given = Router(FABRIC, width=96), torch.randn(50, 96), routing(50)
    steered = router(x, routing(50, steer=[0, 0, 0, 0, 9.0]))
    assert (steered.weight_TE[:, 5] > 0.5).all()
    dear = routing(50, fabric=FabricConfig(experts=FABRIC.experts, cost_weight=5.0))
    cheap, usual = (
        (router(x, told).weight_TE * cost_of_experts(FABRIC)).sum() for told in (dear, given)
    )
    assert cheap < 0.5 * usual


def test_what_cannot_be_chosen_is_not_whatever_the_balance():
    torch.manual_seed(0)
    router, x = Router(FABRIC, width=96), torch.randn(50, 96)
    router.balance_E[[0, 3, 6]] = 2.0
    steer = [-torch.inf, 0, -torch.inf, 0, 0]
    choice = router(x, routing(50, steer=steer))
    assert (choice.weight_TE[:, [0, 3, 6]] == 0).all()
    assert torch.allclose(choice.weight_TE.sum(-1), torch.ones(50))


def test_reading_only_the_chosen_experts_changes_nothing():
    torch.manual_seed(0)
    layer = Experts(FABRIC, width=96)
    torch.nn.init.normal_(layer.down, std=0.2)
    x, given = torch.randn(30, 96), routing(30)
    whole, _ = layer.train()(x, given)
    layer.eval()
    single = torch.cat(
        [layer(x[i : i + 1], Routing(*(part[i : i + 1] for part in given)))[0] for i in range(30)]
    )
    assert torch.allclose(whole, single, atol=1e-5)
    assert torch.allclose(whole, layer(x, given)[0], atol=1e-5)
