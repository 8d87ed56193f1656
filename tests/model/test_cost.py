"""The formulas against PyTorch's own counter and against tensors that were made."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from heddle.model import cost
from heddle.model.batch import Packed, pack
from heddle.model.config import Expert, FabricConfig, MemoryConfig, ModelConfig, ThinkConfig, Tier
from heddle.model.memory import WholeSequences
from heddle.model.router import Choice
from heddle.model.slots import sees_exactly, sees_summarised
from heddle.model.transformer import Transformer
from tests.tiny import tiny_config, tiny_model

FABRIC = FabricConfig(experts=(Expert(0, 16), Expert(1, 24), Expert(2, 32), Expert(0, 0)))
THINK = ThinkConfig(first_layer=1, num_layers=2, adapter_rank=8, lora_rank=4, block_tokens=8)
MEMORY = MemoryConfig(block_tokens=8, window_blocks=2, tiers=(Tier(2, 3), Tier(8, None)))
ADAPTIVE = tiny_config(num_layers=4, fabric=FABRIC, think=THINK)
SHAPES = {
    "dense": tiny_config(),
    "untied": tiny_config(tied_embeddings=False),
    "biased": tiny_config(qkv_bias=True, out_bias=True, qk_norm=True),
    "fabric": tiny_config(fabric=FABRIC),
    "think": tiny_config(think=THINK),
    "adaptive": ADAPTIVE,
    "memory": replace(ADAPTIVE, memory=MEMORY),
}


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_parts_are_all_the_parameters_there_are(config: ModelConfig):
    real = sum(parameter.numel() for parameter in Transformer(config).parameters())
    assert cost.total_params(config) == real


def counted_flops(model: Transformer, packed: Packed) -> tuple[int, float]:
    """Return what PyTorch counts, and the channels of the experts that were chosen.

    The gate's running mean is left out: that it is computed as a product is a way to scan fast.
    """
    config, memory = model.config, WholeSequences(packed.bounds_S1, block_tokens=THINK.block_tokens)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        choices = model(packed, memory).trace.choices
    if config.fabric is None:
        return counter.get_total_flops(), 0.0
    with FlopCounterMode(display=False) as scan:
        memory.running_mean(
            torch.zeros(len(packed.token_T), config.fabric.context_width), decay=0.5
        )
    channels = float(cost.expert_channels(config, choices))
    assert channels > 0
    return counter.get_total_flops() - scan.get_total_flops(), channels


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_one_loop_costs_what_pytorch_counts(config: ModelConfig):
    """PyTorch takes attention to be full."""
    lengths = (40, 24)
    counted, channels = counted_flops(tiny_model(config), pack([[1] * n for n in lengths]))
    assert counted == cost.forward_flops(
        config,
        num_tokens=sum(lengths),
        num_attended=sum(length**2 for length in lengths),
        expert_channels=channels,
    )


@pytest.mark.parametrize("loops", [2, 5])
def test_later_loops_cost_what_pytorch_counts(loops: int):
    """One block of tokens, so that each attends to all of the first loop's and all of its own."""
    num_tokens = num_attended = THINK.block_tokens
    again = num_tokens * (loops - 1)
    packed = pack([[1] * num_tokens], loops=loops)
    counted, channels = counted_flops(tiny_model(ADAPTIVE), packed)
    formula = cost.forward_flops(
        ADAPTIVE,
        num_tokens=num_tokens,
        num_attended=num_tokens * num_attended,
        num_again=again,
        expert_channels=channels,
    )
    # PyTorch counts the masked half of a block's own keys too; the formula takes them as causal.
    masked = num_attended - (THINK.block_tokens + 1) / 2
    unseen = 4 * ADAPTIVE.num_heads * ADAPTIVE.head_width * THINK.num_layers * again * masked
    assert counted == formula + unseen


def test_chosen_channels_are_summed_over_layers_and_loops():
    model = tiny_model(ADAPTIVE)
    with torch.inference_mode():
        choices = model(pack([[3, 4, 5, 6]], loops=3)).trace.choices
    expected = sum(
        FABRIC.experts[expert].width
        for choice in choices
        for weights in choice.weight_TE.tolist()
        for expert, weight in enumerate(weights)
        if weight > 0
    )
    assert len(choices) == 8
    assert cost.expert_channels(ADAPTIVE, choices).item() == expected > 0
    nothing = torch.tensor([[0.0, 0, 0, 1]])
    assert cost.expert_channels(ADAPTIVE, [Choice(nothing, nothing, nothing)]).item() == 0


@pytest.mark.parametrize("loops", [1, 3])
def test_active_parameters_are_those_that_a_token_reaches(loops: int):
    """One row of the embedding gets a gradient, and a step for each later loop; experts apart."""
    config = replace(ADAPTIVE, tied_embeddings=False)
    model = tiny_model(config).train()
    out = model(pack([[3]], loops=loops))
    parameters = dict(model.named_parameters())
    trace = out.trace
    halting = trace.hard_logit_T.sum() + trace.settled_logit_T.sum()
    gradients = torch.autograd.grad(
        out.logits_NV.sum() + halting, list(parameters.values()), allow_unused=True
    )
    reached = 0
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        if gradient is None or ".experts." in name:
            continue
        is_table = name in ("embed.weight", "think.step")
        rows = int((gradient != 0).any(1).sum()) if is_table else len(parameter)
        reached += rows * parameter[0].numel()
    routers = cost.parts(config)["router"].num_params
    active = cost.active_params(config, expert_channels_per_token=10, loops=loops)
    assert active == reached + routers + 3 * config.width * 10


@pytest.mark.parametrize(
    "memory",
    [None, MEMORY, replace(MEMORY, paged_blocks=3), replace(MEMORY, paged_blocks=3, index_ratio=2)],
    ids=["exact", "slots", "pages", "index"],
)
@pytest.mark.parametrize(("first", "num"), [(0, 1), (0, 40), (13, 20), (32, 8), (0, 200)])
def test_keys_attended_are_those_that_the_masks_show(memory, first: int, num: int):
    config = tiny_config(memory=memory)
    query_T = torch.arange(first, first + num)
    key_L = torch.arange(first + num)
    seen = int((key_L <= query_T[:, None]).sum())
    if memory:
        blocks = len(key_L) // memory.block_tokens + 1
        seen = int(sees_exactly(memory, query_T, key_L).sum()) + sum(
            int(sees_summarised(memory, query_T, tier=tier, num_blocks=blocks).sum())
            for tier in range(len(memory.tiers))
        )
        num_old_T = (query_T // memory.block_tokens + 1 - memory.window_blocks).clamp(min=0)
        seen += int(num_old_T.clamp(max=memory.paged_blocks).sum()) * memory.block_tokens
        if memory.index_ratio:
            seen += int(num_old_T.sum()) * memory.block_tokens // memory.index_ratio // 2
    assert cost.keys_attended(config, first=first, num=num) == seen
