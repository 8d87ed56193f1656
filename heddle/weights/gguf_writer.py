"""Write a dense model as a GGUF file, which llama.cpp and `gguf` read. Called by `quantise`.

Field names and their meaning: `gguf-py/gguf/constants.py` and `conversion` of
https://github.com/ggml-org/llama.cpp.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from torch import Tensor

from heddle.errors import WeightsError
from heddle.kernels.quant import QuantTensor, block_layout
from heddle.model.config import ModelConfig, RopeConfig
from heddle.model.rope import inverse_wavelengths
from heddle.weights.contents import Checkpoint, Part
from heddle.weights.export import hugging_face_class
from heddle.weights.gguf import LLAMA3_CONTEXT, LLAMA3_HIGH, LLAMA3_LOW, ROPE_FACTORS, interleaved
from heddle.weights.gguf_vocabulary import vocabulary_fields
from heddle.weights.names import Slot, slots

QUANTISATION_VERSION = 2  # `GGML_QNT_VERSION` in ggml.h


def write_gguf(checkpoint: Checkpoint, path: Path, formats: Mapping[str, str | None]) -> None:
    """Write a network and its tokenizer, one tensor in memory at a time.

    `formats` names the blocks of each tensor, by our names; None is float32. Raises WeightsError
    for what GGUF has no form for.
    """
    config = checkpoint.config
    if config.fabric or config.think or config.memory:
        raise WeightsError(
            f"{checkpoint.name} is adaptive (clusters, loops or memory), for which GGUF has no "
            "form: give a folder's name as the target, without .gguf"
        )
    architecture = hugging_face_class(config).removesuffix("ForCausalLM").lower()
    fields = _fields(checkpoint, architecture) | vocabulary_fields(checkpoint)
    with closing(gguf.GGUFWriter(path, architecture)) as writer:
        for key, value in fields.items():
            add_field(writer, key, value)
        factors = _rope_factors(config)
        if factors is not None:
            _announce(writer, ROPE_FACTORS, tuple(factors.shape), None)
        for slot in slots(config):
            for name, shape in zip(slot.gguf, slot.shapes, strict=True):
                _announce(writer, name, shape, formats[slot.name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors.numpy())
        for slot in slots(config):
            for part in _parts(checkpoint, slot, architecture):
                data = part.data if isinstance(part, QuantTensor) else part
                writer.write_tensor_data(data.contiguous().numpy())


def _fields(checkpoint: Checkpoint, architecture: str) -> dict[str, Any]:
    config = checkpoint.config
    values = {
        "context_length": config.context_length,
        "embedding_length": config.width,
        "block_count": config.num_layers,
        "feed_forward_length": config.ffn_width,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_width,
        "attention.value_length": config.head_width,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.dimension_count": config.head_width,
        "vocab_size": config.vocab_size,
        **_rope(config.rope),
    }
    return {
        "general.name": checkpoint.name,
        "general.type": "model",
        "general.quantization_version": QUANTISATION_VERSION,
        **{f"{architecture}.{key}": value for key, value in values.items()},
    }


def _rope(rope: RopeConfig) -> dict[str, Any]:
    fields: dict[str, Any] = {"rope.freq_base": rope.base}
    if rope.kind in ("default", "llama3"):  # the second is told by a tensor
        return fields
    fields |= {"rope.scaling.type": rope.kind, "rope.scaling.factor": rope.factor}
    if rope.kind == "yarn":
        fields["rope.scaling.original_context_length"] = rope.original_context_length
        fields["rope.scaling.yarn_beta_fast"] = rope.beta_fast
        fields["rope.scaling.yarn_beta_slow"] = rope.beta_slow
        if rope.attention_factor is not None:  # there it multiplies YaRN's own
            own = 0.1 * math.log(max(rope.factor, 1.0)) + 1.0
            fields["rope.scaling.attn_factor"] = rope.attention_factor / own
    return fields


def _rope_factors(config: ModelConfig) -> Tensor | None:
    """Return what Llama 3.1's rule divides each rotation's speed by."""
    rope = config.rope
    if rope.kind != "llama3":
        return None
    rule = (rope.low_freq_factor, rope.high_freq_factor, rope.original_context_length)
    if rule != (LLAMA3_LOW, LLAMA3_HIGH, LLAMA3_CONTEXT):
        raise WeightsError(
            f"its rope is stretched by llama3's rule with {rule}, which a GGUF file cannot say: "
            "give a folder's name as the target, without .gguf"
        )
    plain, _ = inverse_wavelengths(RopeConfig(base=rope.base), head_width=config.head_width)
    stretched, _ = inverse_wavelengths(rope, head_width=config.head_width)
    return plain / stretched


def _announce(
    writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], format: str | None
) -> None:
    """Enter a tensor into the header."""
    kind = gguf.GGMLQuantizationType[format or "F32"]
    length, size = block_layout(kind.name)
    writer.add_tensor_info(
        name,
        shape,
        np.dtype(np.float32),
        math.prod(shape) // length * size,
        raw_dtype=kind,
    )


def _parts(checkpoint: Checkpoint, slot: Slot, architecture: str) -> Iterator[Part]:
    """Yield the file's tensors of one of ours."""
    parts = checkpoint.tensors[slot.name]
    if [tuple(part.shape) for part in parts] != list(slot.shapes):
        parts = _cut(parts, slot)
    for name, part in zip(slot.gguf, parts, strict=True):
        if architecture == "llama" and (".attn_q." in name or ".attn_k." in name):
            yield part[interleaved(part.shape[0], checkpoint.config.head_width)]
        else:
            yield part


def _cut(parts: list[Part], slot: Slot) -> list[Part]:
    """Return parts of the rows that a file's tensors have."""
    [whole] = parts
    cut, first = [], 0
    for shape in slot.shapes:
        cut.append(whole[first : first + shape[0]])
        first += shape[0]
    return cut


def add_field(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Add a field as its value's type; None is left out."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)
