"""Networks by name, and the adaptive parts that a dense network is given.

`heddle plan` lists them, recipes train the nano ones, `heddle upcycle` makes `small-135m` from its
base. The nominal family is planned, sized and built on the meta device, not trained here.
"""

from dataclasses import replace
from difflib import get_close_matches

from heddle.errors import ConfigError
from heddle.model.config import (
    CLUSTERS,
    MAX_LOOPS,
    Expert,
    FabricConfig,
    MemoryConfig,
    ModelConfig,
    RopeConfig,
    ThinkConfig,
    Tier,
)

MIN_LAYERS = 3
THINK_LAYERS = 12
# Widths in units: reasoning gains more from rank than knowledge does (FlexMoRE, arXiv:2602.08818).
EXPERT_UNITS = {"factual": 2, "spatial": 4, "symbolic": 8, "creative": 2, "safety": 1}


def cluster_experts(unit: int, *, copies: int = 1) -> tuple[Expert, ...]:
    """Return each cluster's full and half-wide experts, and one that does nothing."""
    table = [
        Expert(cluster, unit * EXPERT_UNITS[name] // divisor)
        for cluster, name in enumerate(CLUSTERS)
        for divisor in (1, 2)
        for _ in range(copies)
    ]
    return (*table, Expert(CLUSTERS.index("factual"), 0))


def adapted(
    dense: ModelConfig, *, has_fabric: bool = True, max_loops: int = MAX_LOOPS
) -> ModelConfig:
    """Give a dense network fabric and thinking block: prelude 3/10, block 4/10, coda 3/10.

    30 layers give 9, 12 and 9; deeper networks keep a block of 12. Expert widths scale with the
    network's: at width 576 factual experts have 64 and 32 channels, symbolic ones 256 and 128.
    Without a fabric one loop is the dense network's work.
    """
    if dense.num_layers < MIN_LAYERS:
        raise ConfigError(
            f"a thinking block needs {MIN_LAYERS} layers at least, the network has "
            f"{dense.num_layers}"
        )
    num_thinking = min(THINK_LAYERS, max(1, round(dense.num_layers * 0.4)))
    return replace(
        dense,
        fabric=FabricConfig(experts=cluster_experts(max(2, dense.width // 18)))
        if has_fabric
        else None,
        think=ThinkConfig(
            first_layer=(dense.num_layers - num_thinking) // 2,
            num_layers=num_thinking,
            adapter_rank=max(8, dense.width // 9),
            lora_rank=max(4, dense.width // 36),
            max_loops=max_loops,
        ),
    )


# From scratch on a CPU: 4.8M parameters, four fifths of them experts, which cost a token little.
# No dense path but a shared feed-forward as wide as the network.
NANO = ModelConfig(
    vocab_size=1024,
    width=128,
    num_layers=8,
    num_heads=4,
    num_kv_heads=2,
    head_width=32,
    ffn_width=128,
    context_length=4096,
    fabric=FabricConfig(experts=cluster_experts(48)),
    think=ThinkConfig(first_layer=3, num_layers=2, adapter_rank=32, lora_rank=8),
    memory=MemoryConfig(window_blocks=4, tiers=(Tier(4, 16), Tier(16, None)), max_slots=512),
)
# The same FLOPs a token as NANO at one loop, all in one feed-forward; fewer parameters in all.
NANO_DENSE = replace(NANO, ffn_width=468, fabric=None, think=None, memory=None)
# NANO with as many experts of one width, 111: equal in total and active parameters and in FLOPs.
# They share a cluster, so that the gate favours none of them. Block and memory are NANO's.
NANO_FLAT_MOE = replace(NANO, fabric=FabricConfig(experts=(Expert(0, 111),) * 11))

# What the default model's file says; its epsilon is a float32.
SMOLLM2_135M = ModelConfig(
    vocab_size=49_152,
    width=576,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_width=64,
    ffn_width=1536,
    context_length=8192,
    norm_eps=9.999999747378752e-06,
    rope=RopeConfig(base=100_000.0),
)


def _nominal(
    *,
    width: int,
    num_layers: int,
    num_kv_heads: int,
    ffn_width: int,
    expert_unit: int,
    copies: int,
    max_loops: int = MAX_LOOPS,
) -> ModelConfig:
    """Return a full-size network: heads of 128 channels, a block of 12, a million tokens."""
    return ModelConfig(
        vocab_size=128 * 1024,
        width=width,
        num_layers=num_layers,
        num_heads=width // 128,
        num_kv_heads=num_kv_heads,
        head_width=128,
        ffn_width=ffn_width,
        context_length=1024 * 1024,
        rope=RopeConfig(base=10_000_000.0),
        tied_embeddings=False,
        qk_norm=True,
        fabric=FabricConfig(
            experts=cluster_experts(expert_unit, copies=copies), context_width=width // 16
        ),
        think=ThinkConfig(
            first_layer=(num_layers - THINK_LAYERS) // 2,
            num_layers=THINK_LAYERS,
            adapter_rank=width // 16,
            lora_rank=width // 64,
            max_loops=max_loops,
        ),
        memory=MemoryConfig(),
    )


PRESETS = {
    "nano": NANO,
    "nano-dense": NANO_DENSE,
    "nano-flat-moe": NANO_FLAT_MOE,
    "small-135m": adapted(SMOLLM2_135M),
    "flash": _nominal(
        width=6144,
        num_layers=48,
        num_kv_heads=8,
        ffn_width=16_384,
        expert_unit=3072,
        copies=4,
        max_loops=4,
    ),
    "standard": _nominal(
        width=12_288,
        num_layers=86,
        num_kv_heads=8,
        ffn_width=10_240,
        expert_unit=4864,
        copies=8,
    ),
    "deep-research": _nominal(
        width=16_384,
        num_layers=120,
        num_kv_heads=16,
        ffn_width=28_672,
        expert_unit=6656,
        copies=8,
    ),
    "operator-host": _nominal(
        width=12_288,
        num_layers=96,
        num_kv_heads=8,
        ffn_width=23_552,
        expert_unit=5376,
        copies=6,
    ),
}


def find_preset(name: str) -> ModelConfig:
    """Return a network by its name in `PRESETS`; a ConfigError names the nearest one."""
    if name in PRESETS:
        return PRESETS[name]
    near = get_close_matches(name.lower(), PRESETS, n=1)
    hint = f", did you mean {near[0]!r}" if near else ""
    raise ConfigError(f"there is no preset {name!r}{hint}: choose one of {', '.join(PRESETS)}")
