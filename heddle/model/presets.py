"""Networks by name, and the adaptive parts that a dense network is given."""

from dataclasses import replace

from heddle.errors import ConfigError
from heddle.model.config import CLUSTERS, Expert, FabricConfig, ModelConfig, ThinkConfig

MIN_LAYERS = 3
THINK_LAYERS = 12
# Widths in units: reasoning gains more from rank than knowledge does (FlexMoRE, arXiv:2602.08818).
EXPERT_UNITS = {"factual": 2, "spatial": 4, "symbolic": 8, "creative": 2, "safety": 1}


def cluster_experts(unit: int) -> tuple[Expert, ...]:
    """Return a full and a half-wide expert of each cluster, and one that does nothing."""
    table = [
        Expert(cluster, unit * EXPERT_UNITS[name] // divisor)
        for cluster, name in enumerate(CLUSTERS)
        for divisor in (1, 2)
    ]
    return (*table, Expert(CLUSTERS.index("factual"), 0))


def adapted(dense: ModelConfig) -> ModelConfig:
    """Give a dense network fabric and thinking block: prelude 3/10, block 4/10, coda 3/10.

    30 layers give 9, 12 and 9; deeper networks keep a block of 12. Expert widths scale with the
    network's: at width 576 factual experts have 64 and 32 channels, symbolic ones 256 and 128.
    """
    if dense.num_layers < MIN_LAYERS:
        raise ConfigError(
            f"a thinking block needs {MIN_LAYERS} layers at least, the network has "
            f"{dense.num_layers}"
        )
    num_thinking = min(THINK_LAYERS, max(1, round(dense.num_layers * 0.4)))
    return replace(
        dense,
        fabric=FabricConfig(experts=cluster_experts(max(2, dense.width // 18))),
        think=ThinkConfig(
            first_layer=(dense.num_layers - num_thinking) // 2,
            num_layers=num_thinking,
            adapter_rank=max(8, dense.width // 9),
            lora_rank=max(4, dense.width // 36),
        ),
    )
