"""A student cut from its teacher: fewer layers, fewer loops, narrower experts, the same width.

Layers are left out evenly and the others copied, as DistilBERT does (Sanh et al. 2019,
arXiv:1910.01108). The first layer of all, the thinking block's last and the last of all stay.
Experts keep the columns that can say most. Called by `distill`.
"""

import math
import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from heddle.errors import ConfigError
from heddle.model.config import MAX_LOOPS, Expert, FabricConfig, ModelConfig
from heddle.model.transformer import Transformer
from heddle.weights.native import tensor_shapes

FLASH_LOOPS = 4
FLASH_DEPTH = 2 / 3
EXPERT_MATRIX = r"layers\.(\d+)\.experts\.(gate|up|down)"


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What is left of a teacher.

    Attributes:
        num_layers: in all; None keeps two thirds.
        max_loops: of the thinking block; None is 4, or the teacher's if it has fewer.
        expert_share: of each expert's columns.
    """

    num_layers: int | None = None
    max_loops: int | None = None
    expert_share: float = 0.5

    def __post_init__(self):
        if self.num_layers is not None and self.num_layers < 1:
            raise ConfigError(f"a student needs at least 1 layer, not {self.num_layers}")
        if self.max_loops is not None and not 1 <= self.max_loops <= MAX_LOOPS:
            raise ConfigError(
                f"a student's loops must be from 1 to {MAX_LOOPS}, not {self.max_loops}"
            )
        if not 0 < self.expert_share <= 1:
            raise ConfigError(
                f"expert_share must be above 0 and at most 1, not {self.expert_share}"
            )


def student_config(teacher: ModelConfig, cut: Cut) -> ModelConfig:
    """Return the student's shape. Raises ConfigError for more of anything than the teacher has."""
    num_layers = cut.num_layers or max(_fewest(teacher), round(teacher.num_layers * FLASH_DEPTH))
    if num_layers > teacher.num_layers:
        raise ConfigError(
            f"a student of {num_layers} layers is deeper than its teacher, which has "
            f"{teacher.num_layers}: ask for at most that many"
        )
    if num_layers < _fewest(teacher):
        raise ConfigError(
            f"a student of {num_layers} layers has none left for some of prelude, thinking block "
            f"and coda: ask for at least {_fewest(teacher)}"
        )
    changes = {"num_layers": num_layers, "fabric": _narrower(teacher.fabric, cut.expert_share)}
    if teacher.think is None:
        if cut.max_loops not in (None, 1):
            raise ConfigError(
                f"the teacher has no thinking block, so its student cannot loop {cut.max_loops} "
                "times: leave the loops away"
            )
        return replace(teacher, **changes)
    max_loops = cut.max_loops or min(FLASH_LOOPS, teacher.think.max_loops)
    if max_loops > teacher.think.max_loops:
        raise ConfigError(
            f"a student of {max_loops} loops thinks longer than its teacher, which has at most "
            f"{teacher.think.max_loops}: ask for at most that many"
        )
    first, num_thinking = _split(teacher, num_layers)
    think = replace(teacher.think, first_layer=first, num_layers=num_thinking, max_loops=max_loops)
    return replace(teacher, **changes, think=think)


def kept_layers(teacher: ModelConfig, student: ModelConfig) -> list[int]:
    """Return, for each of the student's layers, the teacher's that it comes from."""
    prelude, block, coda = zip(_parts(teacher), _parts(student), strict=True)
    return [*_spread(*prelude), *_spread_back(*block), *_spread_back(*coda)]


@torch.no_grad()
def student_tensors(teacher: Transformer, config: ModelConfig) -> dict[str, Tensor]:
    """Return the student's parameters and buffers: copies of parts of the teacher's."""
    sources = teacher.state_dict()
    kept = kept_layers(teacher.config, config)
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        tensor = sources[_source_name(name, kept, teacher.config, config)]
        if name == "think.step":
            tensor = tensor[: shape[0]]
        elif config.fabric and (found := re.fullmatch(EXPERT_MATRIX, name)):
            columns = _loudest_columns(teacher, kept[int(found[1])], config.fabric)
            tensor = tensor.index_select(int(found[2] == "down"), columns)
        assert tensor.shape == shape, f"{name}: {tuple(tensor.shape)} is not {shape}"
        tensors[name] = tensor.clone()
    return tensors


def _source_name(name: str, kept: list[int], teacher: ModelConfig, student: ModelConfig) -> str:
    """Return the teacher's name of a student's tensor: the layer's number changes."""
    if found := re.match(r"layers\.(\d+)\.", name):
        return f"layers.{kept[int(found[1])]}.{name[found.end() :]}"
    if found := re.match(r"think\.loras\.(\d+)\.", name):
        assert teacher.think and student.think, "only thinking blocks have these"
        layer = kept[student.think.first_layer + int(found[1])] - teacher.think.first_layer
        return f"think.loras.{layer}.{name[found.end() :]}"
    return name


def _loudest_columns(teacher: Transformer, layer: int, fabric: FabricConfig) -> Tensor:
    """Return each expert's columns with the greatest product of norms of gate, up and down."""
    source = teacher.config.fabric
    experts = teacher.get_submodule(f"layers.{layer}.experts")
    gate_FD, up_FD, down_DF = (experts.get_parameter(name) for name in ("gate", "up", "down"))
    loudness_F = gate_FD.norm(dim=1) * up_FD.norm(dim=1) * down_DF.norm(dim=0)
    columns, start = [], 0
    assert source is not None, "a student's experts are its teacher's"
    for wide, narrow in zip(source.experts, fabric.experts, strict=True):
        order = loudness_F[start : start + wide.width].argsort(descending=True, stable=True)
        columns.append(start + order[: narrow.width].sort().values)
        start += wide.width
    return torch.cat(columns)


def _narrower(fabric: FabricConfig | None, share: float) -> FabricConfig | None:
    if fabric is None:
        return None
    experts = tuple(
        Expert(expert.cluster, math.ceil(expert.width * share)) for expert in fabric.experts
    )
    return replace(fabric, experts=experts)


def _parts(config: ModelConfig) -> tuple[range, range, range]:
    """Return the layers of prelude, thinking block and coda; a dense network has two halves."""
    if config.think is None:
        first = end = (config.num_layers + 1) // 2
    else:
        first = config.think.first_layer
        end = first + config.think.num_layers
    return range(first), range(first, end), range(end, config.num_layers)


def _spread(layers: range, kept: range) -> list[int]:
    """Choose as many of `layers` as there are `kept`, evenly, the first among them."""
    return [layers[i * len(layers) // len(kept)] for i in range(len(kept))]


def _spread_back(layers: range, kept: range) -> list[int]:
    """Choose as `_spread` does, but the last among them."""
    return _spread(layers[::-1], kept)[::-1]


def _fewest(config: ModelConfig) -> int:
    """Return how many layers leave no part of a network empty."""
    return sum(len(part) > 0 for part in _parts(config)) if config.think else 1


def _split(teacher: ModelConfig, num_layers: int) -> tuple[int, int]:
    """Share a number of layers out as the teacher's are; return prelude's and block's."""
    prelude, block, coda = map(len, _parts(teacher))
    outside = int(prelude > 0) + int(coda > 0)
    num_thinking = min(num_layers - outside, max(1, round(num_layers * block / teacher.num_layers)))
    left = num_layers - num_thinking
    first = round(left * prelude / max(1, prelude + coda))
    first = min(max(first, int(prelude > 0)), left - int(coda > 0))
    return first, num_thinking
