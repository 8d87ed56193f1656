"""How a network is spread over GPUs, and what each then holds. Called by `heddle plan`.

A group of `tensor` x `expert` GPUs computes the same tokens' network together: every matrix is
split `tensor` ways (Megatron-LM, arXiv:1909.08053), experts also `expert` ways (GShard,
arXiv:2006.16668). `data` groups compute other tokens. In training parameters, gradients and
optimiser are sharded over all GPUs and gathered a layer at a time when one copy of everything does
not fit (ZeRO 3, arXiv:1910.02054; FSDP, arXiv:2304.11277).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from heddle.model.config import ModelConfig
from heddle.model.cost import parts, typical_expert_channels
from heddle.model.devices import Device

USABLE = 0.9  # of a GPU's memory; the rest is for the runtime, its buffers and fragmentation
MICROBATCH_TOKENS = 8192
MAX_GPUS = 2**20

BFLOAT16, FLOAT32 = 2, 4
# The trainer's state of a parameter: what computes, its float32 master, the summed gradient, and
# AdamW's two moments (Muon, which moves the matrices of layers, keeps one).
WEIGHT_BYTES = BFLOAT16 + FLOAT32
GRADIENT_BYTES = FLOAT32
ADAMW_BYTES, MUON_BYTES = 2 * FLOAT32, FLOAT32
MUON_PARTS = ("attention", "feed_forward", "experts")


class Split(NamedTuple):
    """Ways to split: `tensor` x `expert` x `data` GPUs, states sharded over `fsdp` of them."""

    tensor: int
    expert: int
    data: int
    fsdp: int = 1


class Layout(NamedTuple):
    """A split and what one GPU holds, in bytes by kind; `fits` is whether its memory is enough."""

    split: Split
    bytes_by_kind: Mapping[str, float]
    fits: bool


def cache_bytes_per_token(config: ModelConfig) -> int:
    """Return the bytes of a token's keys and values in all layers; a slot has as many."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_width * BFLOAT16


def cache_bytes(config: ModelConfig, *, context: int, loops: int = 1) -> float:
    """Return what a sequence's next token reads: exact keys and values, slots, later loops' own."""
    exact, slots = context, 0
    if config.memory:
        block = (context - 1) // config.memory.block_tokens
        first_exact = max(0, block + 1 - config.memory.window_blocks) * config.memory.block_tokens
        exact = context - first_exact + (config.memory.sink_tokens if first_exact else 0)
        slots = config.memory.num_slots(context)
    own = 0.0
    if config.think:
        own = (loops - 1) * config.think.block_tokens * config.think.num_layers / config.num_layers
    return (exact + slots + own) * cache_bytes_per_token(config)


def serving_layout(
    config: ModelConfig, device: Device, *, num_gpus: int, context: int, loops: int
) -> Layout:
    """Return the smallest group that holds the network in bfloat16 and one whole sequence."""
    common, experts = _params(config)

    def held(split: Split) -> dict[str, float]:
        of_group = common / split.tensor + experts / (split.tensor * split.expert)
        one = cache_bytes(config, context=context, loops=loops) / split.tensor
        return {"weights": BFLOAT16 * of_group, "cache": one}

    return _first_fit(_groups(config, device, num_gpus), held, device)


def num_sequences(layout: Layout, device: Device) -> int:
    """Return how many sequences like the layout's one the GPUs hold at once."""
    if not layout.fits:
        return 0
    free = USABLE * device.memory_bytes - layout.bytes_by_kind["weights"]
    return int(free / layout.bytes_by_kind["cache"]) * layout.split.expert * layout.split.data


def training_layout(config: ModelConfig, device: Device, *, num_gpus: int, loops: int) -> Layout:
    """Return plain copies if they fit, else shards in the smallest group whose layers do."""
    counts = {name: part.num_params for name, part in parts(config).items()}
    params = sum(counts.values())
    by_muon = sum(counts.get(name, 0) for name in MUON_PARTS)
    optimiser = MUON_BYTES * by_muon + ADAMW_BYTES * (params - by_muon)
    activations = _activation_bytes(config, loops=loops)

    def held(split: Split) -> dict[str, float]:
        return {
            "weights": WEIGHT_BYTES * params / split.fsdp,
            "gradients": GRADIENT_BYTES * params / split.fsdp,
            "optimiser": optimiser / split.fsdp,
            "gathered": _gathered_bytes(config, split) if split.fsdp > 1 else 0.0,
            "activations": activations / split.tensor,
        }

    copies = Split(tensor=1, expert=1, data=num_gpus)
    sharded = (split._replace(fsdp=num_gpus) for split in _groups(config, device, num_gpus))
    return _first_fit(iter((copies, *sharded)), held, device)


def fewest_gpus(make: Callable[..., Layout]) -> int | None:
    """Return the first power of two for which `make` finds a layout that fits."""
    num = 1
    while num <= MAX_GPUS:
        if make(num_gpus=num).fits:
            return num
        num *= 2
    return None


def _params(config: ModelConfig) -> tuple[int, int]:
    """Return how many parameters all tokens use, and how many are the experts'."""
    counts = {name: part.num_params for name, part in parts(config).items()}
    experts = counts.pop("experts", 0)
    return sum(counts.values()), experts


def _gathered_bytes(config: ModelConfig, split: Split) -> float:
    """Return bfloat16 weights and gradients in use: outside the layers, a layer and the next."""
    common, experts = _params(config)
    counts = {name: part.num_params for name, part in parts(config).items()}
    in_layers = counts["attention"] + counts["feed_forward"] + counts.get("router", 0)
    layer = in_layers / config.num_layers / split.tensor
    layer += experts / config.num_layers / (split.tensor * split.expert)
    return BFLOAT16 * (2 * (common - in_layers) / split.tensor + 3 * layer)


def _activation_bytes(config: ModelConfig, *, loops: int) -> float:
    """Return what a micro-batch keeps when layers are computed again (arXiv:1604.06174).

    Each pass's input, and while a layer is computed again all that its backward pass reads.
    """
    passes = config.num_layers
    if config.think:
        passes += (loops - 1) * config.think.num_layers
    heads = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_width
    experts = typical_expert_channels(config) / config.num_layers
    layer = 4 * config.width + heads + 3 * (config.ffn_width + experts)
    return BFLOAT16 * MICROBATCH_TOKENS * (passes * config.width + layer)


def _groups(config: ModelConfig, device: Device, num_gpus: int) -> Iterator[Split]:
    """Return the groups there are, small ones first, then those that split experts."""
    num_experts = len([e for e in config.fabric.experts if e.width]) if config.fabric else 1
    found = [
        Split(tensor=tensor, expert=expert, data=num_gpus // (tensor * expert))
        for tensor in range(1, device.num_per_machine + 1)
        if num_gpus % tensor == 0 and config.num_kv_heads % tensor == 0
        for expert in range(1, min(num_experts, num_gpus // tensor) + 1)
        if num_gpus // tensor % expert == 0
    ]
    return iter(sorted(found, key=lambda split: (split.tensor * split.expert, split.tensor)))


def _first_fit(
    splits: Iterator[Split], held: Callable[[Split], dict[str, float]], device: Device
) -> Layout:
    """Return the first split that fits, or the one that comes nearest."""
    found = []
    for split in splits:
        kinds = held(split)
        layout = Layout(split, kinds, sum(kinds.values()) <= USABLE * device.memory_bytes)
        if layout.fits:
            return layout
        found.append(layout)
    return min(found, key=lambda layout: sum(layout.bytes_by_kind.values()))
