"""What a network costs: its parameters by part, and floating-point operations.

Called by the trainer's metrics, by what serves a request and by `heddle plan`. A product of
matrices counts 2 FLOPs for each multiply-add, and a token that attends to another one 4 H C a layer
(PaLM, Chowdhery et al. 2022, arXiv:2204.02311, appendix B). What is computed element by element is
left out. Parameters are counted on the modules themselves, built on the meta device.
"""

from collections.abc import Sequence
from fnmatch import fnmatch
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from heddle.model.config import ModelConfig
from heddle.model.router import Choice
from heddle.model.transformer import Transformer

# Parts of a network by the names of its parameters; the first pattern that fits decides.
PARTS = (
    ("embed.*", "embedding"),
    ("*.attention.pool.*", "memory"),
    ("*.attention.*", "attention"),
    ("*.ffn.*", "feed_forward"),
    ("*.experts.router.*", "router"),
    ("*.experts.*", "experts"),
    ("gate.*", "gate"),
    ("think.read*", "halting"),
    ("think.*", "later_loops"),
    ("*norm.*", "norms"),
    ("head.*", "head"),
)
MATRICES_PER_EXPERT = 3  # gate, up and down: each has a row or a column of `width` for a channel


class Part(NamedTuple):
    """Parameters of a part, and how many of them are matrices that multiply a token's state."""

    num_params: int
    num_multiplied: int


@cache
def parts(config: ModelConfig) -> dict[str, Part]:
    """Return a network's parts by name, in the order of `PARTS`; a tied head is the embedding."""
    with torch.device("meta"):
        model = Transformer(config)
    counts = {part: Part(0, 0) for _, part in PARTS}
    for name, parameter in model.named_parameters():
        part = next(part for pattern, part in PARTS if fnmatch(name, pattern))
        is_table = name in ("embed.weight", "think.step")
        multiplied = 0 if is_table or parameter.dim() < 2 else parameter.numel()
        before = counts[part]
        counts[part] = Part(
            before.num_params + parameter.numel(), before.num_multiplied + multiplied
        )
    return {name: part for name, part in counts.items() if part.num_params}


def total_params(config: ModelConfig) -> int:
    """Return how many parameters there are to store."""
    return sum(part.num_params for part in parts(config).values())


def active_by_part(
    config: ModelConfig, *, expert_channels_per_token: float, loops: int = 1
) -> dict[str, float]:
    """Return the parameters that one token uses, each once, part by part.

    `expert_channels_per_token` are the widths of its experts, summed over layers. Of an embedding
    that is not also the head a token uses one row.
    """
    active = {name: float(part.num_params) for name, part in parts(config).items()}
    if not config.tied_embeddings:
        active["embedding"] = float(config.width)
    if config.fabric:
        active["experts"] = MATRICES_PER_EXPERT * config.width * expert_channels_per_token
    if config.think:
        unreached_steps = (config.think.max_loops - loops) * config.width
        active["later_loops"] = active["later_loops"] - unreached_steps if loops > 1 else 0.0
    return active


def active_params(
    config: ModelConfig, *, expert_channels_per_token: float, loops: int = 1
) -> float:
    """Return the sum of `active_by_part`."""
    active = active_by_part(
        config, expert_channels_per_token=expert_channels_per_token, loops=loops
    )
    return sum(active.values())


def typical_expert_channels(config: ModelConfig) -> float:
    """Return one token's expert widths over all layers, were all experts chosen equally often.

    It is the figure for a network that has not been run: `max_experts` are taken in each layer.
    """
    if config.fabric is None:
        return 0.0
    widths = [expert.width for expert in config.fabric.experts]
    return config.num_layers * config.fabric.max_experts * sum(widths) / len(widths)


def expert_channels(config: ModelConfig, choices: Sequence[Choice]) -> Tensor:
    """Return the widths of all chosen experts, summed over choices and tokens: a float scalar."""
    assert config.fabric is not None, "only a fabric makes choices"
    widths = [float(expert.width) for expert in config.fabric.experts]
    chosen_E = torch.stack([(choice.weight_TE > 0).sum(0) for choice in choices]).sum(0)
    return (chosen_E * chosen_E.new_tensor(widths, dtype=torch.float32)).sum()


def keys_attended(config: ModelConfig, *, first: int, num: int) -> int:
    """Return how many keys `num` tokens from position `first` on attend to in a layer, summed.

    Without memory those are all tokens up to themselves; with it sinks, exact window, slots and
    pages. Slots whose pages are read instead count too: they were looked at in order to choose.
    So do an index's keys, by halves, for they have no values.
    """
    end = first + num
    if config.memory is None:
        return (end * (end + 1) - first * (first + 1)) // 2
    size, total = config.memory.block_tokens, 0
    for block in range(first // size, -(-end // size)):
        low, high = max(first, block * size), min(end, (block + 1) * size)
        window = max(0, block + 1 - config.memory.window_blocks) * size
        shared = config.memory.num_slots(high) + (config.memory.sink_tokens if window else 0)
        if config.memory.index_ratio:
            shared += window // config.memory.index_ratio // 2
        total += (high * (high + 1) - low * (low + 1)) // 2 + (high - low) * (shared - window)
    return total


def forward_flops(
    config: ModelConfig,
    *,
    num_tokens: float,
    num_attended: float,
    num_again: float = 0.0,
    expert_channels: float = 0.0,
) -> float:
    """Return the FLOPs of one forward that makes logits of every token.

    Args:
        config: the network.
        num_tokens: of all sequences together.
        num_attended: how many keys a token attends to in a layer, summed over tokens.
        num_again: passes through the thinking block beyond each token's first, summed over tokens.
        expert_channels: widths of all chosen experts, summed over tokens, layers and loops.

    A later loop is taken to attend to what the average token does and to half a block of its own.
    """
    once, again = _multiply_adds(config)
    work = once * num_tokens + again * num_again
    work += MATRICES_PER_EXPERT * config.width * expert_channels
    attended = config.num_layers * num_attended
    if config.think and num_again:
        mean_attended = num_attended / num_tokens
        own = min(mean_attended, (config.think.block_tokens + 1) / 2)
        attended += config.think.num_layers * num_again * (mean_attended + own)
    return 2 * work + 4 * config.num_heads * config.head_width * attended


@cache
def _multiply_adds(config: ModelConfig) -> tuple[int, int]:
    """Return one token's, but for experts and attention: in its first pass, and in a later one."""
    multiplied = {name: part.num_multiplied for name, part in parts(config).items()}
    head = config.vocab_size * config.width
    once = sum(
        count
        for name, count in multiplied.items()
        if name not in ("head", "experts", "later_loops", "memory")
    )
    if config.think is None:
        return once + head, 0
    layers = multiplied["attention"] + multiplied["feed_forward"] + multiplied.get("router", 0)
    again = layers * config.think.num_layers // config.num_layers
    return once + head, again + multiplied["later_loops"] + multiplied["halting"]
