"""Networks with summary slots in native kernels: close to PyTorch's, the same however batched."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from heddle.engine.config import EngineConfig
from heddle.engine.engine import Engine
from heddle.engine.load import load_model
from heddle.engine.native import NativeLayers
from heddle.engine.request import Thinking
from heddle.kernels.cpu import Kernels
from heddle.model.batch import pack
from heddle.model.config import MemoryConfig, Tier
from heddle.weights.checkpoint import Checkpoint, open_checkpoint
from tests.engine.collect import ask
from tests.engine.test_native import (
    BUILDS,
    answers,
    needs_kernels,
    read,
    relative_error,
    upcycled,
)

pytestmark = needs_kernels

MEMORIES = {
    # Slots of a block are too few for a run: they are gathered.
    "short runs": MemoryConfig(
        block_tokens=16,
        sink_tokens=3,
        window_blocks=2,
        tiers=(Tier(2, 2), Tier(4, 1), Tier(16, None)),
    ),
    # A block's slots are one run, which is read in place; the window is the block itself.
    "whole runs": MemoryConfig(
        block_tokens=32, sink_tokens=5, window_blocks=1, tiers=(Tier(2, 2), Tier(32, None))
    ),
    # Twelve slots a block: blocks and chunks never end together.
    "odd runs": MemoryConfig(
        block_tokens=48, sink_tokens=4, window_blocks=1, tiers=(Tier(4, None),)
    ),
    # Of the first block nothing is left for slots.
    "a block of sinks": MemoryConfig(
        block_tokens=16, sink_tokens=16, window_blocks=1, tiers=(Tier(1, 3), Tier(4, None))
    ),
    "no sinks": MemoryConfig(
        block_tokens=64, sink_tokens=0, window_blocks=1, tiers=(Tier(4, 1), Tier(64, None))
    ),
}
WHOLE = [[160, 90]]
CUTS = [[100, 7], [3, 1], [46, 0], [0, 56], *[[1, 1]] * 10, [1, 16]]
PAGED = {name: replace(memory, paged_blocks=2) for name, memory in MEMORIES.items()}
INDEXED = {
    # Two keys of the index a block, the first of which stands for a single token.
    "short index": replace(PAGED["short runs"], index_ratio=8),
    "odd index": replace(PAGED["odd runs"], index_ratio=16),
    "only sinks in a block": replace(PAGED["a block of sinks"], index_ratio=4),
    # No slots: what is old is seen in pages alone, of which most are further than distances go.
    "far pages": MemoryConfig(
        block_tokens=16,
        sink_tokens=3,
        window_blocks=2,
        tiers=(),
        paged_blocks=3,
        index_ratio=4,
        distance_blocks=3,
    ),
    "far pages behind slots": MemoryConfig(
        block_tokens=32,
        sink_tokens=0,
        window_blocks=1,
        tiers=(Tier(4, 1),),
        paged_blocks=1,
        index_ratio=2,
        distance_blocks=1,
    ),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return upcycled(tmp_path_factory.mktemp("slots"))


def with_memory(base: Path, memory: MemoryConfig) -> Checkpoint:
    """Return the network with summaries whose weights say something."""
    checkpoint = open_checkpoint(base)
    config = checkpoint.config
    assert config.think is not None
    think = replace(config.think, block_tokens=memory.block_tokens)
    random = torch.Generator().manual_seed(3)
    heads = (config.num_kv_heads, config.head_width)
    new = {
        f"layers.{layer}.attention.pool.{name}": [torch.randn(shape, generator=random)]
        for layer in range(config.num_layers)
        for name, shape in (("salience", (2, *heads)), ("mass", (len(memory.tiers),)))
    }
    return replace(
        checkpoint,
        config=replace(config, think=think, memory=memory),
        tensors={**checkpoint.tensors, **new},
    )


@pytest.fixture(
    scope="module", params=[*MEMORIES, *(f"{name}, pages" for name in MEMORIES), *INDEXED]
)
def slots(request, base) -> tuple[Checkpoint, list[torch.Tensor]]:
    """A network, and its logits in PyTorch's layers."""
    name, *paged = request.param.split(", ")
    checkpoint = with_memory(base, (PAGED if paged else MEMORIES | INDEXED)[name])
    return checkpoint, read(checkpoint, None, WHOLE, loops=3)


@pytest.mark.parametrize("build", BUILDS)
def test_logits_are_close_to_pytorch(slots, build: str):
    """Tokens go to different depths; bits do not depend on how they are batched, nor on threads."""
    checkpoint, exact = slots
    whole = read(checkpoint, Kernels(build, num_threads=2), WHOLE, loops=3)
    steps = read(checkpoint, Kernels(build, num_threads=1), CUTS, loops=3)
    for exact_NV, whole_NV, by_steps_NV in zip(exact, whole, steps, strict=True):
        errors = [relative_error(*rows) for rows in zip(whole_NV, exact_NV, strict=True)]
        # Of two pages that score nearly the same, rounding may choose the other.
        assert sum(error < 1e-3 for error in errors) > 0.97 * len(errors)
        assert relative_error(whole_NV, exact_NV) < 0.02
        assert torch.equal(whole_NV, by_steps_NV)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
@pytest.mark.parametrize("name", ["short runs", "far pages"])
def test_a_smaller_cache_costs_little_and_keeps_bits(base, name: str, dtype: torch.dtype):
    checkpoint = with_memory(base, (MEMORIES | INDEXED)[name])
    kernels = Kernels(BUILDS[0], num_threads=2)
    exact = read(checkpoint, None, WHOLE, loops=3)
    whole = read(checkpoint, kernels, WHOLE, dtype, loops=3)
    steps = read(checkpoint, kernels, CUTS, dtype, loops=3)
    for exact_NV, kept_NV, by_steps_NV in zip(exact, whole, steps, strict=True):
        # With pages of near scores rounding may choose others.
        assert relative_error(kept_NV, exact_NV) < (0.03 if name in MEMORIES else 0.1)
        assert torch.equal(kept_NV, by_steps_NV)


def test_distances_change_no_bit_of_what_they_reach(base):
    kernels = Kernels(BUILDS[0], num_threads=2)
    clipped, free = (
        read(
            with_memory(base, replace(INDEXED["far pages"], distance_blocks=blocks)), kernels, WHOLE
        )
        for blocks in (3, None)
    )
    within = 4 * 16  # the last block's tokens are three blocks away from the first's
    for clipped_NV, free_NV in zip(clipped, free, strict=True):
        assert torch.equal(clipped_NV[:within], free_NV[:within])
        assert not torch.equal(clipped_NV[within:], free_NV[within:])


def test_a_network_with_slots_is_one_call(base):
    checkpoint, kernels = with_memory(base, PAGED["short runs"]), Kernels(BUILDS[0], num_threads=1)
    model = load_model(checkpoint, dtype="float32", kernels=kernels)
    assert isinstance(model.layers, NativeLayers)


@pytest.mark.parametrize("loops", [1, 3])
@pytest.mark.parametrize("name", ["short runs", "whole runs", "far pages"])
def test_greedy_tokens_are_the_plain_forwards(base, name: str, loops: int):
    checkpoint = with_memory(base, (PAGED | INDEXED)[name])
    plain = load_model(checkpoint, dtype="float32")
    settings = {"threads": 1, "cache_dtype": "float32", "kernels": BUILDS[0]}
    engine = Engine(checkpoint, EngineConfig(**settings))
    try:
        prompt = torch.randint(3, 300, (150,), generator=torch.Generator().manual_seed(5)).tolist()
        found = ask(engine, prompt, 60, thinking=Thinking(max_loops=loops)).tokens
    finally:
        engine.close()
    with torch.inference_mode():
        logits_NV = plain(pack([[*prompt, *found[:-1]]], loops=loops)).logits_NV[149:]
    behind_N = logits_NV.max(1).values - logits_NV.gather(1, torch.tensor(found)[:, None])[:, 0]
    assert behind_N.max() < 1e-2 * logits_NV.std()


@pytest.mark.parametrize("cache_dtype", ["auto", "int8"])
@pytest.mark.parametrize("name", ["short runs", "far pages"])
def test_answers_depend_on_no_cut_batch_prefix_or_preemption(base, name: str, cache_dtype: str):
    """Blocks grow old in the prompt and in the answer, some that several answers share."""
    checkpoint = with_memory(base, (PAGED | INDEXED)[name])
    settings = {"threads": 1, "cache_dtype": cache_dtype, "kernels": BUILDS[0]}
    random = torch.Generator().manual_seed(0)
    shared, other = torch.randint(3, 300, (2, 150), generator=random).tolist()
    deep = Thinking(max_loops=3)
    asked = [(shared, deep), (shared, deep), (other, Thinking(max_loops=4, is_automatic=True))]
    asked += [(shared, Thinking()), (shared, Thinking())]
    alone = Engine(checkpoint, EngineConfig(**settings))
    narrow = Engine(checkpoint, EngineConfig(cache_tokens=384, step_tokens=40, **settings))
    try:
        expected = answers(alone, asked, together=False)
        assert answers(narrow, asked, together=True) == expected
        assert narrow.stats().num_preempted > 0
        assert answers(alone, asked, together=True) == expected
        assert alone.stats().num_cached_tokens == (2 + len(asked)) * 144
    finally:
        alone.close()
        narrow.close()
