"""Delta checkpoints: silent when new, exact about their base, clear about what is wrong."""

import json

import pytest
import torch
import transformers
from safetensors import safe_open

from heddle.engine.load import load_model
from heddle.errors import ConfigError, StorageError, WeightsError
from heddle.model.batch import pack
from heddle.model.memory import WholeSequences
from heddle.weights.checkpoint import open_checkpoint
from heddle.weights.delta import upcycle
from heddle.weights.native import write_native
from tests.tiny import save_tiny

TOKENS = [[5, 9, 300, 42, 7, 7, 511, 3] * 5, [17, 4]]


def logits(path, *, loops: int = 1) -> torch.Tensor:
    model = load_model(open_checkpoint(path), dtype="float32")
    packed = pack(TOKENS, loops=loops)
    with torch.inference_mode():
        return model(packed, WholeSequences(packed.bounds_S1)).logits_NV


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True}, {"num_layers": 6}])
def test_a_new_delta_changes_no_bit_at_one_loop(tmp_path, changes):
    base = save_tiny(tmp_path / "base", **changes)
    delta = upcycle(str(base), tmp_path / "delta")
    assert delta.config.think is not None and delta.config.fabric is not None
    assert torch.equal(logits(tmp_path / "delta"), logits(base))
    assert not torch.equal(logits(tmp_path / "delta", loops=3), logits(base))


def test_a_thinking_block_alone_is_a_delta(tmp_path):
    base = save_tiny(tmp_path / "base")
    delta = upcycle(str(base), tmp_path / "delta", has_fabric=False)
    assert delta.config.think is not None and delta.config.fabric is None
    index = safe_open(tmp_path / "delta" / "model.safetensors", framework="pt")
    assert all(name.startswith("think.") for name in index.keys())  # noqa: SIM118
    assert torch.equal(logits(tmp_path / "delta"), logits(base))
    assert not torch.equal(logits(tmp_path / "delta", loops=3), logits(base))


def test_gates_open_as_far_as_asked(tmp_path):
    base = save_tiny(tmp_path / "base")
    upcycle(str(base), tmp_path / "shut", gate_bias=-20.0)
    upcycle(str(base), tmp_path / "open", gate_bias=1.0)
    assert torch.equal(logits(tmp_path / "open"), logits(base))
    shut, wide = (logits(tmp_path / name, loops=3) for name in ("shut", "open"))
    assert torch.allclose(shut, logits(base), atol=1e-4)
    assert not torch.allclose(wide, logits(base), atol=1e-2)


@pytest.mark.model
def test_the_default_model_keeps_every_bit(tmp_path, default_gguf):
    delta = upcycle(str(default_gguf), tmp_path / "delta")
    assert (delta.config.think.first_layer, delta.config.think.num_layers) == (9, 12)
    assert torch.equal(logits(tmp_path / "delta"), logits(default_gguf))


def test_a_folder_of_transformers_can_be_a_base(tmp_path, tiny_folder):
    config = transformers.Qwen3Config(
        vocab_size=512, hidden_size=32, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, intermediate_size=48, tie_word_embeddings=False,
        eos_token_id=2, bos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    tokenizer = (tiny_folder / "tokenizer.json").read_bytes()
    (tmp_path / "base" / "tokenizer.json").write_bytes(tokenizer)
    upcycle(str(tmp_path / "base"), tmp_path / "delta")
    assert torch.equal(logits(tmp_path / "delta"), logits(tmp_path / "base"))


@pytest.fixture
def delta(tmp_path):
    upcycle(str(save_tiny(tmp_path / "base")), tmp_path / "delta")
    return tmp_path / "delta"


def edit(delta, part: str | None = None, **changes) -> None:
    """Change fields of the description, or of a part of its configuration."""
    path = delta / "model.json"
    document = json.loads(path.read_bytes())
    (document["config"][part] if part else document).update(changes)
    path.write_text(json.dumps(document), encoding="utf-8")


def refused(delta, words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        open_checkpoint(delta)


def test_a_base_that_is_gone(delta, tmp_path):
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    refused(delta, "its base .* is not to be had")


def test_a_base_with_other_weights(delta, tmp_path):
    save_tiny(tmp_path / "base", seed=1)
    refused(delta, "other weights")


def test_another_release(delta):
    edit(delta, version=2)
    refused(delta, "version 2 is of another release")


def test_an_unknown_setting(delta):
    edit(delta, "think", colour="red")
    refused(delta, "colour")


def test_a_setting_that_contradicts_the_tensors(delta):
    edit(delta, "think", adapter_rank=3)
    refused(delta, "has shape")


def test_a_truncated_file(delta):
    file = delta / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(delta, "cut short")


def test_a_target_that_exists(delta, tmp_path):
    with pytest.raises(StorageError, match="exists already"):
        upcycle(str(tmp_path / "base"), delta)


def test_a_base_without_layers_to_loop(tmp_path):
    with pytest.raises(ConfigError, match="3 layers"):
        upcycle(str(save_tiny(tmp_path / "base", num_layers=2)), tmp_path / "delta")
    assert not (tmp_path / "delta").exists()


def test_a_dense_model_of_our_own_can_be_a_base(tmp_path):
    write_native(open_checkpoint(save_tiny(tmp_path / "dense")), tmp_path / "own")
    upcycle(str(tmp_path / "own"), tmp_path / "delta")
    assert torch.equal(logits(tmp_path / "delta"), logits(tmp_path / "dense"))


def test_an_adaptive_model_is_not_upcycled_again(delta, tmp_path):
    with pytest.raises(ConfigError, match="adaptive already"):
        upcycle(str(delta), tmp_path / "again")
