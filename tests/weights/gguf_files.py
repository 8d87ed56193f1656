"""Small GGUF files for tests: random networks with real tokenizers, trained on a few lines."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from heddle.model.config import ModelConfig
from heddle.weights.gguf_writer import add_field
from heddle.weights.names import slots
from tests.weights.lines import lines

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TINY = ModelConfig(
    vocab_size=384,
    width=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_width=16,
    ffn_width=96,
    context_length=256,
)


def byte_level_fields(vocab_size: int, *, pre: str = "smollm") -> dict[str, Any]:
    """Return the `tokenizer.ggml` fields of a byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines(1500, seed=5), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": [3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)),
        "merges": [" ".join(merge) for merge in model["merges"]],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "add_bos_token": False,
    }


def sentencepiece_fields(vocab_size: int) -> dict[str, Any]:
    """Return the fields of a SentencePiece model: merged pieces in order, then characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("\0", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    head = ["<unk>", "<s>", "</s>", *BYTES]
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=head, show_progress=False)
    tokenizer.train_from_iterator(lines(1500, seed=5), trainer)
    vocabulary = tokenizer.get_vocab()
    pieces = sorted(
        vocabulary.keys() - set(head), key=lambda piece: (len(piece) == 1, vocabulary[piece])
    )
    return {
        "model": "llama",
        "tokens": head + pieces,
        "scores": [0.0] * len(head) + [-float(rank) for rank in range(len(pieces))],
        "token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }


def metadata(config: ModelConfig, architecture: str) -> dict[str, Any]:
    """Return the architecture's fields."""
    return {
        f"{architecture}.block_count": config.num_layers,
        f"{architecture}.context_length": config.context_length,
        f"{architecture}.embedding_length": config.width,
        f"{architecture}.feed_forward_length": config.ffn_width,
        f"{architecture}.attention.head_count": config.num_heads,
        f"{architecture}.attention.head_count_kv": config.num_kv_heads,
        f"{architecture}.attention.key_length": config.head_width,
        f"{architecture}.attention.value_length": config.head_width,
        f"{architecture}.attention.layer_norm_rms_epsilon": config.norm_eps,
        f"{architecture}.rope.freq_base": config.rope.base,
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }


def random_tensors(config: ModelConfig) -> dict[str, np.ndarray]:
    """Return a random network under GGUF's names."""
    rng = np.random.default_rng(7)
    return {
        name: rng.normal(scale=0.05, size=shape).astype(np.float32)
        for slot in slots(config)
        for name, shape in zip(slot.gguf, slot.shapes, strict=True)
    }


def write_gguf(
    path: Path,
    *,
    config: ModelConfig = TINY,
    architecture: str = "llama",
    fields: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    format: str = "F32",
    tokenizer: dict[str, Any] | None = None,
) -> Path:
    """Write a network; `fields` replace metadata, or remove it by None; matrices in `format`."""
    tokenizer = byte_level_fields(config.vocab_size) if tokenizer is None else tokenizer
    values = metadata(config, architecture) | {
        f"tokenizer.ggml.{k}": v for k, v in tokenizer.items()
    }
    values |= fields or {}
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in values.items():
        add_field(writer, key, value)
    kind = gguf.GGMLQuantizationType[format]
    for name, tensor in (random_tensors(config) if tensors is None else tensors).items():
        if tensor.ndim == 2 and format != "F32":
            writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
