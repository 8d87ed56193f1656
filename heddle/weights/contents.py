"""What every checkpoint reader returns, and the checks and habits that the readers share."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from heddle.errors import WeightsError
from heddle.kernels.quant import QuantTensor
from heddle.model.config import ModelConfig
from heddle.weights.names import slots

Part = Tensor | QuantTensor

# Tokens after which models of these families stop speaking, whatever their `eos` field says:
# llama.cpp ends a turn at the same names (https://github.com/ggml-org/llama.cpp,
# src/llama-vocab.cpp, "special_eog_ids").
TURN_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|end|>",
    "</s>",
)


@dataclass(frozen=True, kw_only=True)
class BaseReference:
    """The dense model under a delta: where `hub.resolve` finds it, and the hash of its weights.

    `supplies` names the tensors that are its, and not the delta's own; `speaks` says whether the
    tokenizer and the template are.
    """

    spec: str
    sha256: str
    supplies: frozenset[str]
    speaks: bool = True


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An opened model: its shape, its tensors and its tokenizer.

    `tensors`, read when they are looked up, maps each parameter name of
    `model.transformer.Transformer` to parts to be stacked row-wise. `eos_ids` holds every id that
    ends a turn, the file's own first. `base` is None unless this is a delta.
    """

    name: str
    path: Path
    config: ModelConfig
    tensors: Mapping[str, list[Part]]
    tokenizer_json: str
    chat_template: str | None
    bos_id: int | None
    eos_ids: tuple[int, ...]
    add_bos: bool
    size_bytes: int
    description: str
    base: BaseReference | None = None

    def load(self, name: str, dtype: torch.dtype) -> Tensor:
        """Return one whole tensor in `dtype`, never a view of the file."""
        parts = [unpacked(part, dtype) for part in self.tensors[name]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def unpacked(part: Part, dtype: torch.dtype) -> Tensor:
    """Return a part as plain numbers of its own."""
    return part.dequantize(dtype) if isinstance(part, QuantTensor) else part.to(dtype, copy=True)


class LazyParts(Mapping[str, list[Part]]):
    """Tensors by our names, each read from its file when it is looked up."""

    def __init__(self, sources: Mapping[str, tuple[str, ...]], read: Callable[[str], Part]):
        self._sources = sources
        self._read = read

    def __getitem__(self, name: str) -> list[Part]:
        return [self._read(source) for source in self._sources[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


def match_tensors(
    path: Path,
    config: ModelConfig,
    found: Mapping[str, tuple[int, ...]],
    *,
    names: Literal["hugging_face", "gguf"],
    ignored: Iterable[str] = (),
) -> dict[str, tuple[str, ...]]:
    """Return which of a file's tensors make up each of ours.

    Raises WeightsError unless all of them are there, of the right shapes, and no others.
    """
    if config.num_layers > len(found):
        raise WeightsError(
            f"{path}: claims {config.num_layers} layers, with {len(found)} tensors in all"
        )
    sources: dict[str, tuple[str, ...]] = {}
    expected: dict[str, tuple[int, ...]] = {}
    for slot in slots(config):
        sources[slot.name] = getattr(slot, names)
        expected |= zip(sources[slot.name], slot.shapes, strict=True)
    missing = [name for name in expected if name not in found]
    if missing:
        raise WeightsError(
            f"{path}: tensor {missing[0]!r} is missing ({len(missing)} in all): the file is "
            "incomplete or holds another kind of network; fetch it again"
        )
    extra = sorted(found.keys() - expected.keys() - set(ignored))
    if extra:
        raise WeightsError(
            f"{path}: tensor {extra[0]!r} ({len(extra)} in all) has no place in this network: "
            "Heddle reads dense Llama, Mistral, Qwen2 and Qwen3 models"
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise WeightsError(
                f"{path}: tensor {name!r} has shape {list(found[name])}, the configuration asks "
                f"for {list(shape)}: the file contradicts itself; fetch it again"
            )
    return sources


def turn_end_ids(declared: Iterable[int | None], special: Mapping[str, int]) -> tuple[int, ...]:
    """Return the ids that end a turn: those declared, then special tokens known to."""
    named = (special.get(token) for token in TURN_ENDS)
    return tuple(dict.fromkeys(token for token in (*declared, *named) if token is not None))


def check_token_ids(path: Path, ids: Iterable[int | None], vocab_size: int) -> None:
    """Raise WeightsError for a special token whose id the network has no embedding of."""
    for token in ids:
        if token is not None and not 0 <= token < vocab_size:
            raise WeightsError(
                f"{path}: special token id {token} lies outside the vocabulary of {vocab_size}"
            )


def model_name(path: Path) -> str:
    """Return the id that API clients see: the file's name without its quantisation."""
    stem = path.name.removesuffix(".gguf").lower()
    stem = re.sub(r"[.\-_](i?q\d\w*|f16|f32|bf16|fp16|mxfp4)$", "", stem)
    return re.sub(r"[^a-z0-9._-]+", "-", stem).strip("-.") or "model"


def count_words(num_parameters: int) -> str:
    """Return a count of parameters as people write it: 134.5M, 1.7B."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if num_parameters >= unit:
            return f"{num_parameters / unit:.1f}{letter} parameters"
    return f"{num_parameters} parameters"
