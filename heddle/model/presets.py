"""Named networks. Research sizes run here; nominal ones are planned, sized and dry-run."""

from collections.abc import Callable

from heddle.model.config import (
    CLUSTERS,
    Expert,
    FabricConfig,
    ModelConfig,
    RopeConfig,
    ThinkConfig,
)


def experts(unit: int) -> tuple[Expert, ...]:
    """Return a wide and a half-wide expert of each cluster, and one that does nothing.

    Symbolic and spatial experts are wider: reasoning gains more from rank than knowledge does
    (FlexMoRE, arXiv:2602.08818).
    """
    widths = {"factual": 2, "spatial": 4, "symbolic": 8, "creative": 2, "safety": 1}
    table = [
        Expert(cluster, unit * widths[name] // divisor)
        for cluster, name in enumerate(CLUSTERS)
        for divisor in (1, 2)
    ]
    return (*table, Expert(0, 0))
