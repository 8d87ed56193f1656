"""The gate, the thinking block and the account in native calls, against the network's own."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from heddle.engine.config import EngineConfig
from heddle.engine.load import load_model
from heddle.engine.native import has_native_layers
from heddle.engine.native_think import NativeGate, NativeThink
from heddle.engine.paged_memory import LaterLoops, PagedMemory, Segment
from heddle.engine.pages import Pages, page_tokens
from heddle.engine.spending import readings
from heddle.kernels.cpu import Kernels
from heddle.model.batch import Depth, Out, Packed
from heddle.model.config import MemoryConfig, Tier
from heddle.weights.checkpoint import Checkpoint, open_checkpoint
from tests.engine.test_native import BUILDS, needs_kernels, relative_error, upcycled
from tests.engine.test_native_slots import with_memory

pytestmark = needs_kernels

NUM_TOKENS = 150  # of each of two sequences: two blocks and a part of one
MEMORY = MemoryConfig(
    block_tokens=32, sink_tokens=5, window_blocks=1, tiers=(Tier(2, 2), Tier(32, None))
)


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> dict[str, Checkpoint]:
    def made(name: str, **settings) -> Path:
        return upcycled(tmp_path_factory.mktemp(name), **settings)

    experts = made("experts")
    return {
        "experts": open_checkpoint(experts),
        "loops": open_checkpoint(made("loops", has_fabric=False)),
        "slots": with_memory(experts, MEMORY),
    }


def depth_of(kind: str, position_T: Tensor) -> Depth:
    """Say who may think on: nobody, a token of each block, all, some deeper, or as they like."""
    max_T = torch.full_like(position_T, 1 if kind in ("none", "one") else 4)
    if kind == "one":
        max_T[position_T % 32 == 7] = 3
    if kind == "uneven":
        max_T = 1 + position_T % 4
    return Depth(max_T, torch.full_like(max_T, kind == "auto", dtype=torch.bool))


@torch.inference_mode()
def run(
    checkpoint: Checkpoint,
    kernels: Kernels | None,
    kind: str,
    cuts: tuple[int, ...] = (NUM_TOKENS,),
    steer: tuple[float, ...] | None = None,
) -> tuple[list[Out], Pages]:
    """Read two sequences side by side, up to each cut in turn."""
    model = load_model(checkpoint, dtype="float32", kernels=kernels)
    assert isinstance(model.think, NativeThink) == (kernels is not None)
    if model.gate is not None:
        assert isinstance(model.gate, NativeGate) == (kernels is not None)
    size = page_tokens(checkpoint.config, EngineConfig())
    num_pages = -(-NUM_TOKENS // size)
    pages = Pages(
        checkpoint.config,
        num_pages=2 * num_pages,
        page_tokens=size,
        dtype=torch.float32,
        is_native=has_native_layers(model),
    )
    owned = list(range(num_pages)), list(range(2 * num_pages - 1, num_pages - 1, -1))
    random, later = torch.Generator().manual_seed(0), (LaterLoops(), LaterLoops())
    token_SL = torch.randint(checkpoint.config.vocab_size, (2, NUM_TOKENS), generator=random)
    outs, past = [], 0
    for cut in cuts:
        num = cut - past
        position_T = torch.arange(past, cut).repeat(2)
        segments = [Segment(n * num, (n + 1) * num, past, owned[n], later[n]) for n in range(2)]
        packed = Packed(
            token_T=token_SL[:, past:cut].flatten().contiguous(),
            position_T=position_T,
            bounds_S1=(0, num, 2 * num),
            output_N=torch.arange(2 * num),
            depth=depth_of(kind, position_T),
            steer_TG=None if steer is None else torch.tensor(steer).repeat(2 * num, 1),
        )
        outs.append(model(packed, PagedMemory(pages, segments)))
        past = cut
    return outs, pages


def by_sequence(outs: list[Out], name: str) -> Tensor:
    """Return a part of the trace of all steps: the first sequence's tokens, then the second's."""
    halves = [getattr(out.trace, name).chunk(2) for out in outs]
    return torch.cat([torch.cat(parts) for parts in zip(*halves, strict=True)])


@pytest.mark.parametrize("kind", ["none", "one", "all", "uneven", "auto"])
@pytest.mark.parametrize("network", ["experts", "loops", "slots"])
def test_a_block_thinks_as_pytorchs_does(networks, network: str, kind: str):
    checkpoint = networks[network]
    for build in BUILDS:
        [exact], _ = run(checkpoint, None, kind)
        [native], _ = run(checkpoint, Kernels(build, num_threads=2), kind)
        assert torch.equal(native.trace.loops_T, exact.trace.loops_T)
        assert len(exact.trace.loops_T.unique()) == {"none": 1, "all": 1, "one": 2}.get(
            kind, len(exact.trace.loops_T.unique())
        )
        for name in ("hard_logit_T", "settled_logit_T"):
            expected = getattr(exact.trace, name)
            torch.testing.assert_close(getattr(native.trace, name), expected, atol=0.02, rtol=0.02)
        for name in ("first_TD", "before_TD", "last_TD"):
            found, expected = (getattr(out.trace.states, name) for out in (native, exact))
            assert relative_error(found, expected) < 2e-3, name
        assert relative_error(native.logits_NV, exact.logits_NV) < 2e-3


def test_tokens_that_decide_themselves_do_so_differently(networks):
    """Otherwise `auto` above would show nothing."""
    [out], _ = run(networks["experts"], None, "auto")
    assert len(out.trace.loops_T.unique()) > 2


@pytest.mark.parametrize("network", ["experts", "loops"])
def test_thoughts_depend_on_no_cut_and_no_thread(networks, network: str):
    one, three = (Kernels(BUILDS[0], num_threads=num) for num in (1, 3))
    whole, _ = run(networks[network], one, "auto")
    steps, _ = run(networks[network], three, "auto", cuts=(1, 2, 70, 71, 128, NUM_TOKENS))
    for name in ("loops_T", "hard_logit_T", "settled_logit_T"):
        assert torch.equal(by_sequence(whole, name), by_sequence(steps, name))


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("steer", [None, (0.0, 2.0, -1.0, 0.5, -torch.inf)])
def test_a_gate_shares_clusters_out_as_pytorchs_does(networks, build: str, steer):
    """Its running mean is left in the pages."""
    kernels = Kernels(build, num_threads=2)
    [exact], exact_pages = run(networks["experts"], None, "none", steer=steer)
    [native], pages = run(networks["experts"], kernels, "none", steer=steer)
    expected = exact.trace.cluster_TG
    torch.testing.assert_close(native.trace.cluster_TG, expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(pages.mean_PJ, exact_pages.mean_PJ, atol=1e-4, rtol=1e-3)
    steps, by_steps = run(
        networks["experts"], kernels, "none", cuts=(1, 63, 64, 65, NUM_TOKENS), steer=steer
    )
    assert torch.equal(by_sequence([native], "cluster_TG"), by_sequence(steps, "cluster_TG"))
    assert torch.equal(pages.mean_PJ, by_steps.mean_PJ)
    if steer is not None:
        safety_E = torch.tensor([e.cluster == 4 for e in networks["experts"].config.fabric.experts])
        assert all(not choice.weight_TE[..., safety_E].any() for choice in native.trace.choices)


@pytest.mark.parametrize("kind", ["none", "one", "all", "uneven", "auto"])
def test_the_account_is_that_of_the_choices(networks, kind: str):
    """Layers that ran as one report what a count of their choices gives, and as many as PyTorch."""
    checkpoint, num = networks["experts"], NUM_TOKENS
    [out], _ = run(checkpoint, Kernels(BUILDS[0], num_threads=2), kind)
    by_layer = [
        type(choice)(*(part[layer] for part in choice[:3]))
        for choice in out.trace.choices
        for layer in range(len(choice.weight_TE))
    ]
    counted = out.trace._replace(choices=tuple(by_layer))
    expected = readings(counted, checkpoint.config, [num, num])
    assert readings(out.trace, checkpoint.config, [num, num]) == expected
    [exact], _ = run(checkpoint, None, kind)
    assert len(exact.trace.choices) == len(by_layer)
    for mine, theirs in zip(
        expected, readings(exact.trace, checkpoint.config, [num, num]), strict=True
    ):
        assert mine.loops == theirs.loops
        assert sum(mine.channels) == pytest.approx(sum(theirs.channels), rel=0.01)
        assert sum(mine.first_channels) == pytest.approx(sum(theirs.first_channels), rel=0.01)


@pytest.mark.parametrize("num_rows", [1, 4, 5])
def test_few_rows_and_more_mix_experts_alike(networks, num_rows: int):
    """For few rows an expert is computed by one thread, to its outputs."""
    kernels = Kernels(BUILDS[0], num_threads=3)
    [whole], _ = run(networks["experts"], kernels, "all")
    steps, _ = run(
        networks["experts"], kernels, "all", cuts=(*range(num_rows, 64, num_rows), NUM_TOKENS)
    )
    expected, found = (
        torch.cat(
            [torch.cat(parts) for parts in zip(*(o.logits_NV.chunk(2) for o in outs), strict=True)]
        )
        for outs in ([whole], steps)
    )
    assert torch.equal(found, expected)
