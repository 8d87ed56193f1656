"""Write a model in blocks of 8 or 4 bits, and say what rounding did to each tensor.

Called by `heddle quantize`. A `.gguf` file is what other programs read, and holds dense networks;
one of Heddle's own folders holds any. Only matrices that multiply a token's state are rounded,
which is nearly all there is; norms, biases, routers, gates and what later loops add stay float32.
The vocabulary keeps 8 bits: at 4 its error reaches every token twice.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from heddle.errors import ConfigError, WeightsError
from heddle.kernels.quant import QuantTensor
from heddle.weights.atomic import new_file
from heddle.weights.contents import Checkpoint, Part, model_name
from heddle.weights.gguf_writer import write_gguf
from heddle.weights.native import tensor_shapes, write_native
from heddle.weights.rounding import Format, can_round, rounded

FORMATS: dict[str, Format] = {"q8_0": "Q8_0", "q4_1": "Q4_1", "q4_0": "Q4_0"}
VOCABULARY = ("embed.weight", "head.weight")
ROUNDED = (
    "layers.*.attention.qkv.weight",
    "layers.*.attention.out.weight",
    "layers.*.ffn.gate_up.weight",
    "layers.*.ffn.down.weight",
    "layers.*.experts.gate",
    "layers.*.experts.up",
    "layers.*.experts.down",
)


class RoundingError(NamedTuple):
    """What rounding did to a tensor: its error's root mean square and its largest.

    Both are shares of the root mean square of the tensor's numbers.
    """

    name: str
    format: str
    num_params: int
    relative_rms: float
    relative_worst: float


def quantise(
    checkpoint: Checkpoint,
    target: Path,
    format: Format,
    *,
    on_rounded: Callable[[int], None] = lambda num_params: None,
) -> None:
    """Write `target`, which must not exist yet and appears only when it is complete.

    A delta is written with its base, as one whole model. `on_rounded` is told how many numbers each
    written tensor has. Raises WeightsError for numbers that
    cannot be rounded and networks that the target has no form for, StorageError when it cannot be
    written, ConfigError if nothing would be rounded.
    """
    formats = chosen_formats(checkpoint, format)
    if not any(formats.values()):
        raise ConfigError(
            f"{checkpoint.name} has no matrix whose rows are whole blocks of 32 numbers: there is "
            "nothing to quantise"
        )
    rounding = replace(
        checkpoint,
        name=model_name(target.resolve()),
        path=target,
        tensors=_Rounding(checkpoint, formats, on_rounded),
        base=None,
    )
    if target.suffix == ".gguf":
        with new_file(target) as unfinished:
            write_gguf(rounding, unfinished, formats)
    else:
        write_native(rounding, target, dtype=None)


def chosen_formats(checkpoint: Checkpoint, format: Format) -> dict[str, Format | None]:
    """Return the blocks that each tensor is to have; None stays float32."""
    shapes = tensor_shapes(checkpoint.config)
    formats: dict[str, Format | None] = dict.fromkeys(shapes)
    for name, shape in shapes.items():
        if can_round(shape) and name in VOCABULARY:
            formats[name] = "Q8_0"
        elif can_round(shape) and any(fnmatch(name, pattern) for pattern in ROUNDED):
            formats[name] = format
    return formats


def rounding_errors(before: Checkpoint, after: Checkpoint) -> Iterator[RoundingError]:
    """Compare each tensor that is in blocks with what was to be written."""
    for name in after.tensors:
        [part, *_] = after.tensors[name]
        if not isinstance(part, QuantTensor):
            continue
        exact, found = (each.load(name, torch.float32) for each in (before, after))
        size = exact.square().mean().sqrt()
        error = exact.sub_(found)
        scale = float(1 / size) if size > 0 else 0.0
        yield RoundingError(
            name=name,
            format=part.format,
            num_params=found.numel(),
            relative_rms=float(error.square().mean().sqrt()) * scale,
            relative_worst=float(error.abs().max()) * scale,
        )


class _Rounding(Mapping[str, list[Part]]):
    """A checkpoint's tensors, rounded when they are looked up; those in their blocks stay."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        formats: Mapping[str, Format | None],
        on_rounded: Callable[[int], None],
    ):
        self._checkpoint, self._formats, self._on_rounded = checkpoint, formats, on_rounded

    def __getitem__(self, name: str) -> list[Part]:
        parts = self._rounded(name)
        self._on_rounded(sum(part.shape.numel() for part in parts))
        return parts

    def _rounded(self, name: str) -> list[Part]:
        format, parts = self._formats[name], self._checkpoint.tensors[name]
        if format is None:
            return [self._checkpoint.load(name, torch.float32)]
        if all(isinstance(part, QuantTensor) and part.format == format for part in parts):
            return parts
        return [rounded(self._numbers(name), format)]

    def _numbers(self, name: str) -> Tensor:
        weight = self._checkpoint.load(name, torch.float32)
        if not weight.isfinite().all():
            raise WeightsError(
                f"{self._checkpoint.path}: tensor {name!r} holds numbers that are not finite, "
                "which blocks cannot hold: it is corrupt, or its training went wrong"
            )
        return weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._formats)

    def __len__(self) -> int:
        return len(self._formats)
