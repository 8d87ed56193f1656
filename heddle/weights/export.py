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
from safetensors.torch import save_file
from torch import Tensor

from heddle.errors import StorageError, WeightsError
from heddle.model.config import ModelConfig, RopeConfig
from heddle.weights.atomic import new_folder
from heddle.weights.contents import Checkpoint, unpacked
from heddle.weights.folder import INDEX
from heddle.weights.names import slots


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
    if target.exists():
        raise StorageError(f"{target} exists already: choose another folder or remove it")
    documents = {
        "config.json": _config(checkpoint, dtype),
        "generation_config.json": {
            "bos_token_id": checkpoint.bos_id,
            "eos_token_id": list(checkpoint.eos_ids),
        },
        "tokenizer_config.json": _tokenizer_config(checkpoint),
    }
    with new_folder(target) as folder:
        for name, document in documents.items():
            (folder / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        (folder / "tokenizer.json").write_text(checkpoint.tokenizer_json, encoding="utf-8")
        if checkpoint.chat_template is not None:
            (folder / "chat_template.jinja").write_text(checkpoint.chat_template, encoding="utf-8")
        _write_tensors(checkpoint, folder, dtype, max_file_bytes)


def _write_tensors(
    checkpoint: Checkpoint, folder: Path, dtype: torch.dtype, max_file_bytes: int
) -> None:
    """Write tensors in files of bounded size, so that one file's worth is in memory at a time."""
    files: dict[str, list[str]] = {}
    pending: dict[str, Tensor] = {}

    def write() -> None:
        name = f"model-{len(files) + 1:05}.safetensors"
        save_file(pending, folder / name, metadata={"format": "pt"})
        files[name] = list(pending)
        pending.clear()

    for name, tensor in _tensors(checkpoint, dtype):
        size_bytes = sum(other.nbytes for other in pending.values())
        if pending and size_bytes + tensor.nbytes > max_file_bytes:
            write()
        pending[name] = tensor
    write()
    if len(files) == 1:
        (folder / next(iter(files))).rename(folder / "model.safetensors")
        return
    total = sum((folder / name).stat().st_size for name in files)
    weight_map = {tensor: name for name, tensors in files.items() for tensor in tensors}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _tensors(checkpoint: Checkpoint, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for slot in slots(checkpoint.config):
        for name, part in zip(slot.hugging_face, checkpoint.tensors[slot.name], strict=True):
            yield name, unpacked(part, dtype)


def _config(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, Any]:
    config = checkpoint.config
    architecture = _architecture(config)
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


def _architecture(config: ModelConfig) -> str:
    """Return the class that has exactly this network's parts."""
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


def _tokenizer_config(checkpoint: Checkpoint) -> dict[str, Any]:
    document = json.loads(checkpoint.tokenizer_json)
    texts = {token["id"]: token["content"] for token in document.get("added_tokens") or []}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": texts.get(checkpoint.bos_id),
        "eos_token": texts.get(checkpoint.eos_ids[0]) if checkpoint.eos_ids else None,
        "add_bos_token": checkpoint.add_bos,
        "model_max_length": checkpoint.config.context_length,
        "clean_up_tokenization_spaces": False,
    }
