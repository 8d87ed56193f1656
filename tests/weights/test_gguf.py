import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from heddle.errors import WeightsError
from heddle.kernels.quant import QuantTensor
from heddle.model.config import ModelConfig, RopeConfig
from heddle.model.rope import inverse_wavelengths
from heddle.model.transformer import Transformer
from heddle.weights.checkpoint import open_checkpoint
from heddle.weights.gguf import ROPE_FACTORS
from tests.weights.gguf_files import TINY, byte_level_fields, random_tensors, write_gguf

QWEN3 = replace(TINY, qk_norm=True, head_width=32, tied_embeddings=False)
QWEN2 = replace(TINY, qkv_bias=True)
BIASED_LLAMA = replace(TINY, qkv_bias=True, out_bias=True)


def permuted(config: ModelConfig, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Interleave the halves of heads of q and k, as the converter of "llama" files does."""
    done = dict(tensors)
    for name in tensors:
        if "attn_q." in name or "attn_k." in name:
            halves = tensors[name].reshape(-1, 2, config.head_width // 2, *tensors[name].shape[1:])
            done[name] = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(tensors[name].shape))
    return done


@pytest.mark.parametrize(
    ("architecture", "config"),
    [("llama", TINY), ("llama", BIASED_LLAMA), ("qwen2", QWEN2), ("qwen3", QWEN3)],
)
def test_reads_configuration_and_tensors(
    architecture: str, config: ModelConfig, tmp_path: Path
) -> None:
    tensors = random_tensors(config)
    stored = permuted(config, tensors) if architecture == "llama" else tensors
    path = write_gguf(tmp_path / "x.gguf", config=config, architecture=architecture, tensors=stored)
    checkpoint = open_checkpoint(path)
    assert replace(checkpoint.config, norm_eps=config.norm_eps) == config
    assert math.isclose(checkpoint.config.norm_eps, config.norm_eps, rel_tol=1e-6)
    parameters = dict(Transformer(config).named_parameters())
    assert {n: p.shape for n, p in parameters.items()} == {
        n: checkpoint.load(n, torch.float32).shape for n in checkpoint.tensors
    }
    qkv = np.concatenate([tensors[f"blk.1.attn_{x}.weight"] for x in "qkv"])
    np.testing.assert_array_equal(
        checkpoint.load("layers.1.attention.qkv.weight", torch.float32), qkv
    )
    gate_up = np.concatenate([tensors[f"blk.0.ffn_{x}.weight"] for x in ("gate", "up")])
    np.testing.assert_array_equal(
        checkpoint.load("layers.0.ffn.gate_up.weight", torch.float32), gate_up
    )
    if config.qkv_bias:
        bias = np.concatenate([tensors[f"blk.0.attn_{x}.bias"] for x in "qkv"])
        np.testing.assert_array_equal(
            checkpoint.load("layers.0.attention.qkv.bias", torch.float32), bias
        )


@pytest.mark.parametrize("format", ["Q4_0", "Q4_1", "Q8_0", "Q5_1"])
def test_quantised_matrices_stay_packed_even_when_rows_move(format: str, tmp_path: Path) -> None:
    tensors = random_tensors(TINY)
    path = write_gguf(tmp_path / "x.gguf", tensors=permuted(TINY, tensors), format=format)
    checkpoint = open_checkpoint(path)
    kind = gguf.GGMLQuantizationType[format]
    for part, x in zip(checkpoint.tensors["layers.0.attention.qkv.weight"], "qkv", strict=True):
        assert isinstance(part, QuantTensor) and part.format == format
        packed = gguf.quants.quantize(tensors[f"blk.0.attn_{x}.weight"], kind)
        np.testing.assert_array_equal(part.data.numpy(), packed)
    assert format in checkpoint.description


@pytest.mark.parametrize("format", ["F16", "BF16"])
def test_half_precision_is_a_view_of_the_file(format: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", format=format)
    (part,) = open_checkpoint(path).tensors["layers.0.ffn.down.weight"]
    assert part.dtype == {"F16": torch.float16, "BF16": torch.bfloat16}[format]


def test_a_loaded_tensor_can_be_changed_without_changing_the_file(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf")
    before = path.read_bytes()
    checkpoint = open_checkpoint(path)
    checkpoint.load("norm.weight", torch.float32).zero_()
    assert checkpoint.load("norm.weight", torch.float32).abs().sum() > 0
    assert path.read_bytes() == before


def test_default_model(default_gguf: Path) -> None:
    checkpoint = open_checkpoint(default_gguf)
    assert checkpoint.name == "smollm2-135m-instruct"
    assert checkpoint.config == ModelConfig(
        vocab_size=49152,
        width=576,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        head_width=64,
        ffn_width=1536,
        context_length=8192,
        norm_eps=float(np.float32(1e-5)),
        rope=RopeConfig(base=100_000.0),
    )
    assert checkpoint.eos_ids == (2, 0) and checkpoint.bos_id == 1 and not checkpoint.add_bos
    assert checkpoint.description == "GGUF Q4_1, 134.5M parameters"
    assert "<|im_start|>" in (checkpoint.chat_template or "")


@pytest.mark.parametrize(
    ("fields", "rope"),
    [
        ({"llama.rope.freq_base": None}, RopeConfig()),
        ({"llama.rope.scaling.type": "none"}, RopeConfig()),
        (
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
            RopeConfig(kind="linear", factor=4.0),
        ),
        ({"llama.rope.scale_linear": 2.0}, RopeConfig(kind="linear", factor=2.0)),
        (
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.factor": 4.0,
                "llama.rope.scaling.original_context_length": 64,
            },
            RopeConfig(kind="yarn", factor=4.0, original_context_length=64),
        ),
    ],
)
def test_rope_scaling(fields: dict[str, Any], rope: RopeConfig, tmp_path: Path) -> None:
    assert open_checkpoint(write_gguf(tmp_path / "x.gguf", fields=fields)).config.rope == rope


def test_llama3_scaling_is_recovered_from_its_factors(tmp_path: Path) -> None:
    rope = RopeConfig(base=500_000.0, kind="llama3", factor=32.0, original_context_length=8192)
    plain, _ = inverse_wavelengths(RopeConfig(base=500_000.0), head_width=16)
    stretched, _ = inverse_wavelengths(rope, head_width=16)
    tensors = random_tensors(TINY) | {ROPE_FACTORS: (plain / stretched).numpy()}
    fields = {"llama.rope.freq_base": 500_000.0}
    path = write_gguf(tmp_path / "x.gguf", tensors=tensors, fields=fields)
    assert open_checkpoint(path).config.rope == rope
    tensors[ROPE_FACTORS] = tensors[ROPE_FACTORS] * 1.1
    with pytest.raises(WeightsError, match=r"rope_freqs\.weight"):
        open_checkpoint(write_gguf(tmp_path / "y.gguf", tensors=tensors, fields=fields))


def test_end_of_turn_tokens_and_bos(tmp_path: Path) -> None:
    tokenizer = byte_level_fields(TINY.vocab_size, pre="llama-bpe")
    del tokenizer["add_bos_token"]
    checkpoint = open_checkpoint(
        write_gguf(tmp_path / "x.gguf", tokenizer=tokenizer | {"eot_token_id": 0})
    )
    assert checkpoint.eos_ids == (2, 0)
    assert checkpoint.add_bos, "Llama 3's files begin with bos unless they say otherwise"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"general.architecture": "mamba"}, "general.architecture"),
        ({"general.type": "adapter"}, "general.type"),
        ({"split.count": 3}, "split.count"),
        ({"llama.block_count": None}, "block_count"),
        ({"llama.block_count": 0}, "block_count"),
        ({"llama.block_count": 4_000_000_000}, "block_count"),
        ({"llama.block_count": 100_000}, "100000 layers"),
        ({"llama.block_count": 1}, r"blk\.1\."),
        ({"llama.embedding_length": 96}, "token_embd.weight"),
        ({"llama.embedding_length": "64"}, "embedding_length"),
        ({"llama.attention.head_count": 0}, "head_count"),
        ({"llama.attention.head_count_kv": 3}, "num_kv_heads"),
        ({"llama.attention.head_count_kv": [2, 2]}, "head_count_kv"),
        ({"llama.attention.value_length": 8}, "value_length"),
        ({"llama.rope.dimension_count": 8}, "rope.dimension_count"),
        ({"llama.rope.freq_base": math.nan}, "rope.freq_base"),
        ({"llama.rope.freq_base": -1.0}, "rope base"),
        (
            {"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0},
            "rope.scaling.type",
        ),
        ({"llama.attention.layer_norm_rms_epsilon": math.inf}, "layer_norm_rms_epsilon"),
        ({"llama.context_length": 4_000_000_000}, "context_length"),
        ({"llama.vocab_size": 7}, "vocab_size"),
        ({"llama.expert_count": 8}, "expert_count"),
        ({"llama.attention.sliding_window": 16}, "sliding_window"),
        ({"tokenizer.ggml.eos_token_id": 99_999}, "99999"),
        ({"tokenizer.chat_template": 5}, "chat_template"),
    ],
)
def test_unusable_fields_are_named(fields: dict[str, Any], named: str, tmp_path: Path) -> None:
    fields = dict(fields)
    architecture = fields.pop("general.architecture", "llama")
    path = write_gguf(tmp_path / "x.gguf", architecture=architecture, fields=fields)
    with pytest.raises(WeightsError, match=named) as caught:
        open_checkpoint(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["token_embd.weight", "output_norm.weight", "blk.1.ffn_up.weight"])
def test_a_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    tensors = random_tensors(TINY)
    del tensors[name]
    with pytest.raises(WeightsError, match=name):
        open_checkpoint(write_gguf(tmp_path / "x.gguf", tensors=tensors))


def test_an_extra_tensor_is_named(tmp_path: Path) -> None:
    tensors = random_tensors(TINY) | {"blk.0.ffn_gate_inp.weight": np.zeros((4, 64), np.float32)}
    with pytest.raises(WeightsError, match="ffn_gate_inp"):
        open_checkpoint(write_gguf(tmp_path / "x.gguf", tensors=tensors))
