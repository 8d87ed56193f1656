"""Write a checkpoint as a Hugging Face folder that `transformers` loads.

Field names are those of `configuration_llama.py` and its siblings in
https://github.com/huggingface/transformers, of release 5 (`rope_parameters`) and of the earlier
ones (`rope_theta`, `rope_scaling`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heddle.errors import WeightsError
from heddle.model.config import ModelConfig, RopeConfig
from heddle.weights.atomic import new_folder
from heddle.weights.contents import Checkpoint
from heddle.weights.folder_tokenizer import write_speech
from heddle.weights.names import slots
from heddle.weights.sharded import write_safetensors


def export_checkpoint(
    checkpoint: Checkpoint,
    target: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    max_file_bytes: int = 4 << 30,
) -> None:
    """Write `target`, which must not exist yet; it appears only when it is complete.

    `dtype` is float32, bfloat16 or float16. Raises StorageError when it cannot be written,
    WeightsError for a network that no Hugging Face class describes.
    """
    shape = checkpoint.config
    if shape.fabric or shape.think or shape.memory:
        raise WeightsError(
            f"{checkpoint.name} is adaptive (clusters, loops or memory), for which Hugging Face "
            "folders have no form: export it with --format heddle"
        )
    config = _config(checkpoint, dtype)
    with new_folder(target) as folder:
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_speech(folder, checkpoint)
        write_safetensors(folder, _tensors(checkpoint, dtype), max_file_bytes=max_file_bytes)


def _tensors(checkpoint: Checkpoint, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for slot in slots(checkpoint.config):
        parts = checkpoint.load(slot.name, dtype).split([shape[0] for shape in slot.shapes])
        for name, part in zip(slot.hugging_face, parts, strict=True):
            yield name, part.clone()  # safetensors refuses parts of one storage


def _config(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, Any]:
    config = checkpoint.config
    architecture = hugging_face_class(config)
    rope = _rope(config.rope)
    return {
        "architectures": [architecture],
        "model_type": architecture.removesuffix("ForCausalLM").lower(),
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.ffn_width,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope.base,
        "rope_scaling": None if config.rope.kind == "default" else rope,
        "rope_parameters": rope,
        "tie_word_embeddings": config.tied_embeddings,
        "attention_bias": config.out_bias,
        "hidden_act": "silu",
        "bos_token_id": checkpoint.bos_id,
        "eos_token_id": checkpoint.eos_ids[0] if checkpoint.eos_ids else None,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def hugging_face_class(config: ModelConfig) -> str:
    """Return the class that has exactly this network's parts; WeightsError if there is none."""
    classes = {
        # q/k normalised, q/k/v bias, output bias
        (False, False, False): "LlamaForCausalLM",
        (False, True, True): "LlamaForCausalLM",
        (False, True, False): "Qwen2ForCausalLM",
        (True, False, False): "Qwen3ForCausalLM",
        (True, True, True): "Qwen3ForCausalLM",
    }
    features = (config.qk_norm, config.qkv_bias, config.out_bias)
    if features not in classes:
        raise WeightsError(
            f"no Hugging Face class has qk_norm, qkv_bias and out_bias as {features}: cannot export"
        )
    return classes[features]


def _rope(rope: RopeConfig) -> dict[str, Any]:
    written: dict[str, Any] = {"rope_type": rope.kind, "rope_theta": rope.base}
    if rope.kind != "default":
        written["factor"] = rope.factor
    if rope.kind in ("llama3", "yarn"):
        written["original_max_position_embeddings"] = rope.original_context_length
    if rope.kind == "llama3":
        written |= {
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
        }
    if rope.kind == "yarn":
        written |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow}
        if rope.attention_factor is not None:
            written["attention_factor"] = rope.attention_factor
    return written
