"""GGUF models: configuration, tensors and tokenizer out of one file.

Called by `checkpoint.open_checkpoint`. Field names and their meaning: `gguf-py/gguf/constants.py`,
`conversion` and `src/llama-model.cpp` of https://github.com/ggml-org/llama.cpp.
"""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from heddle.errors import WeightsError
from heddle.model.config import ModelConfig, RopeConfig
from heddle.weights.contents import (
    Checkpoint,
    LazyParts,
    Part,
    check_token_ids,
    count_words,
    match_tensors,
    model_name,
    turn_end_ids,
)
from heddle.weights.fields import Fields
from heddle.weights.gguf_file import GgufFile
from heddle.weights.gguf_tokenizer import CONTROL, convert_tokenizer

ARCHITECTURES = ("llama", "qwen2", "qwen3")
ROPE_FACTORS = "rope_freqs.weight"
# Llama 3.1's stretching as its reference code has it; a GGUF keeps only what follows from it.
LLAMA3_LOW, LLAMA3_HIGH, LLAMA3_CONTEXT = 1.0, 4.0, 8192


def read_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file; a WeightsError names file and field of what cannot be used."""
    file = GgufFile(path)
    fields = Fields(path, file.fields)
    architecture = _architecture(fields)
    config = _config(Fields(path, _of_architecture(file.fields, architecture)), file, architecture)
    shapes = {name: info.shape for name, info in file.tensors.items()}
    sources = match_tensors(path, config, shapes, names="gguf", ignored=[ROPE_FACTORS])
    tokenizer = convert_tokenizer(path, file.fields, config.vocab_size)
    ends = [fields.find(f"tokenizer.ggml.{end}_token_id", int) for end in ("eos", "eot", "eom")]
    check_token_ids(path, ends, config.vocab_size)
    special = {tokenizer.tokens[i]: i for i, kind in enumerate(tokenizer.kinds) if kind == CONTROL}
    return Checkpoint(
        name=model_name(path),
        path=path,
        config=config,
        tensors=LazyParts(sources, lambda source: _part(file, source, config, architecture)),
        tokenizer_json=tokenizer.json,
        chat_template=fields.find("tokenizer.chat_template", str),
        bos_id=tokenizer.bos_id,
        eos_ids=turn_end_ids(ends, special),
        add_bos=tokenizer.adds_bos,
        size_bytes=file.size_bytes,
        description=_description(file),
    )


def _architecture(fields: Fields) -> str:
    architecture = fields.get("general.architecture", str)
    if architecture not in ARCHITECTURES:
        raise WeightsError(
            f"{fields.path}: field 'general.architecture' is {architecture!r}; Heddle reads "
            f"{', '.join(ARCHITECTURES)}"
        )
    fields.refuse("general.type", "model")
    fields.refuse("split.count", 1)
    return architecture


def _of_architecture(values: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    prefix = architecture + "."
    return {
        key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)
    }


def _config(fields: Fields, file: GgufFile, architecture: str) -> ModelConfig:
    """Read the fields that begin with the architecture's name, here without it."""
    fields.refuse("expert_count", 0)
    context_length = fields.count("context_length")
    if fields.get("attention.sliding_window", int, 0) < context_length:
        fields.refuse("attention.sliding_window", 0)
    width, num_heads = fields.count("embedding_length"), fields.count("attention.head_count")
    head_width = fields.count("attention.key_length", width // num_heads)
    fields.refuse("attention.value_length", head_width)
    fields.refuse("rope.dimension_count", head_width)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise WeightsError(
            f"{file.path}: tensor 'token_embd.weight' is missing: incomplete, or no language model"
        )
    fields.refuse("vocab_size", embedding.shape[0])
    return ModelConfig(
        vocab_size=embedding.shape[0],
        width=width,
        num_layers=fields.count("block_count"),
        num_heads=num_heads,
        num_kv_heads=fields.count("attention.head_count_kv", num_heads),
        head_width=head_width,
        ffn_width=fields.count("feed_forward_length"),
        context_length=context_length,
        norm_eps=fields.get("attention.layer_norm_rms_epsilon", float),
        rope=_rope(fields, file, head_width),
        tied_embeddings="output.weight" not in file.tensors,
        qk_norm=architecture == "qwen3",
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        out_bias="blk.0.attn_output.bias" in file.tensors,
    )


def _rope(fields: Fields, file: GgufFile, head_width: int) -> RopeConfig:
    base = fields.get("rope.freq_base", float, 10_000.0)
    factor = fields.get("rope.scaling.factor", float, fields.get("rope.scale_linear", float, 0.0))
    kind = fields.get("rope.scaling.type", str, "linear" if factor else "none")
    if ROPE_FACTORS in file.tensors:
        return _llama3_rope(file, base, head_width)
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        return RopeConfig(base=base)
    if kind == "linear":
        return RopeConfig(base=base, kind="linear", factor=factor)
    fields.refuse("rope.scaling.type", "yarn")
    fields.refuse("rope.scaling.yarn_ext_factor", 1.0)
    magnitude = fields.get("rope.scaling.attn_factor", float, 1.0)
    # ggml multiplies it by YaRN's own factor (`rope_yarn` in ggml-cpu/ops.cpp)
    combined = magnitude * (0.1 * math.log(max(factor, 1.0)) + 1.0)
    return RopeConfig(
        base=base,
        kind="yarn",
        factor=factor,
        original_context_length=fields.count("rope.scaling.original_context_length"),
        beta_fast=fields.get("rope.scaling.yarn_beta_fast", float, 32.0),
        beta_slow=fields.get("rope.scaling.yarn_beta_slow", float, 1.0),
        attention_factor=None if magnitude == 1.0 else combined,
    )


def _llama3_rope(file: GgufFile, base: float, head_width: int) -> RopeConfig:
    """Recover Llama 3.1's rule from the divisors that follow from it, and prove it."""
    found = file.part(ROPE_FACTORS)
    if isinstance(found, torch.Tensor) and found.shape == (head_width // 2,) and base > 1:
        factor = float(found.float().max())
        exponents = torch.arange(0, head_width, 2, dtype=torch.float64) / head_width
        turns = LLAMA3_CONTEXT / (2 * math.pi * base**exponents)
        keep = ((turns - LLAMA3_LOW) / (LLAMA3_HIGH - LLAMA3_LOW)).clamp(0, 1)
        expected = 1 / ((1 - keep) / factor + keep) if factor > 0 else torch.zeros(0)
        if torch.allclose(found.double(), expected, rtol=1e-4):
            return RopeConfig(
                base=base,
                kind="llama3",
                factor=factor,
                low_freq_factor=LLAMA3_LOW,
                high_freq_factor=LLAMA3_HIGH,
                original_context_length=LLAMA3_CONTEXT,
            )
    raise WeightsError(
        f"{file.path}: tensor {ROPE_FACTORS!r} holds factors other than Llama 3.1's: not supported"
    )


def _part(file: GgufFile, source: str, config: ModelConfig, architecture: str) -> Part:
    """Return a tensor; in "llama" files rows of q and k are put back into Hugging Face's order.

    The converter interleaves the two halves of each head (`LlamaModel.permute` in llama.cpp's
    conversion): row 2j + t of a head there is row j + t * head_width / 2 here.
    """
    part = file.part(source)
    if architecture != "llama" or ".attn_q." not in source and ".attn_k." not in source:
        return part
    rows = torch.arange(part.shape[0]).view(-1, config.head_width // 2, 2).transpose(1, 2).flatten()
    return part[rows]


def interleaved(num_rows: int, head_width: int) -> torch.Tensor:
    """Return which of our rows of q or k stands in each row of a "llama" file."""
    return torch.arange(num_rows).view(-1, 2, head_width // 2).transpose(1, 2).flatten()


def _description(file: GgufFile) -> str:
    numbers: Counter[str] = Counter()
    for info in file.tensors.values():
        numbers[info.format] += math.prod(info.shape)
    return f"GGUF {numbers.most_common(1)[0][0]}, {count_words(numbers.total())}"
