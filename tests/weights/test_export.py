from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from heddle.errors import StorageError
from heddle.weights.checkpoint import open_checkpoint
from heddle.weights.export import export_checkpoint
from tests.tiny import tiny_tokenizer

transformers = pytest.importorskip("transformers")

SHAPE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 512,
}
CONFIGS = {
    "llama": transformers.LlamaConfig(**SHAPE),
    "llama-tied-llama3": transformers.LlamaConfig(
        **SHAPE, tie_word_embeddings=True, rope_parameters=LLAMA3
    ),
    "llama-biased": transformers.LlamaConfig(**SHAPE, attention_bias=True, head_dim=32),
    "mistral": transformers.MistralConfig(**SHAPE, sliding_window=None),
    "qwen2": transformers.Qwen2Config(**SHAPE, rope_parameters=YARN),
    "qwen3": transformers.Qwen3Config(**SHAPE, head_dim=32, tie_word_embeddings=True),
}


def save_reference(name: str, folder: Path) -> Any:
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    with torch.no_grad():  # biases and norms begin as zeros and ones: make mix-ups visible
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_loads_an_export_with_equal_logits(name: str, tmp_path: Path) -> None:
    original = save_reference(name, tmp_path / "in")
    checkpoint = open_checkpoint(tmp_path / "in")
    export_checkpoint(checkpoint, tmp_path / "out", dtype=torch.float32)
    again = open_checkpoint(tmp_path / "out")
    assert again.config == checkpoint.config
    assert (again.bos_id, again.eos_ids, again.add_bos) == (
        checkpoint.bos_id,
        checkpoint.eos_ids,
        checkpoint.add_bos,
    )
    exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.arange(200)[None] % 512
    with torch.no_grad():
        assert torch.equal(exported(ids).logits, original(ids).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_smaller_types(dtype: torch.dtype, tmp_path: Path) -> None:
    save_reference("llama", tmp_path / "in")
    checkpoint = open_checkpoint(tmp_path / "in")
    export_checkpoint(checkpoint, tmp_path / "out", dtype=dtype)
    again = open_checkpoint(tmp_path / "out")
    for name in checkpoint.tensors:
        assert torch.equal(again.load(name, dtype), checkpoint.load(name, dtype))
    assert again.size_bytes < checkpoint.size_bytes * 0.6


def test_large_exports_are_several_files_with_an_index(tmp_path: Path) -> None:
    original = save_reference("qwen3", tmp_path / "in")
    checkpoint = open_checkpoint(tmp_path / "in")
    export_checkpoint(checkpoint, tmp_path / "out", dtype=torch.float32, max_file_bytes=100_000)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(exported(ids).logits, original(ids).logits)
    assert open_checkpoint(tmp_path / "out").config == checkpoint.config


def test_tokenizer_and_template_survive(tmp_path: Path) -> None:
    save_reference("llama", tmp_path / "in")
    (tmp_path / "in" / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}")
    (tmp_path / "in" / "tokenizer_config.json").write_text(
        '{"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "add_bos_token": false}'
    )
    export_checkpoint(open_checkpoint(tmp_path / "in"), tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("heddle été 東京").input_ids == tiny_tokenizer().encode("heddle été 東京").ids
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert rendered == "<|im_start|>hi"


def test_default_model_exports_and_still_knows_paris(default_gguf: Path, tmp_path: Path) -> None:
    export_checkpoint(open_checkpoint(default_gguf), tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    answer = tokenizer.decode(model.generate(ids, max_new_tokens=4, do_sample=False)[0])
    assert answer.startswith("The capital of France is Paris")


def test_nothing_is_overwritten_and_nothing_half_written_stays(tmp_path: Path) -> None:
    save_reference("llama", tmp_path / "in")
    checkpoint = open_checkpoint(tmp_path / "in")
    with pytest.raises(StorageError, match="exists already"):
        export_checkpoint(checkpoint, tmp_path / "in")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot write"):
        export_checkpoint(checkpoint, tmp_path / "file" / "out")
    (tmp_path / "empty").mkdir()
    without_norm = {
        name: checkpoint.tensors[name] for name in checkpoint.tensors if name != "norm.weight"
    }
    with pytest.raises(KeyError):
        export_checkpoint(replace(checkpoint, tensors=without_norm), tmp_path / "empty" / "out")
    assert list((tmp_path / "empty").iterdir()) == []
