import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from heddle.errors import WeightsError
from heddle.model.config import RopeConfig
from heddle.weights.checkpoint import open_checkpoint
from tests.tiny import save_tiny


def changed(folder: Path, fields: dict[str, Any], name: str = "config.json") -> Path:
    """Save a tiny model with some fields of a JSON file replaced, or removed where it is `...`."""
    save_tiny(folder)
    document = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    document = {k: v for k, v in (document | fields).items() if v is not ...}
    (folder / name).write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(
    ("fields", "rope"),
    [
        ({"rope_theta": 1e6}, RopeConfig(base=1e6)),
        ({"rope_theta": ..., "rope_parameters": ...}, RopeConfig()),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, RopeConfig(base=5e5)),
        (
            {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2}},
            RopeConfig(kind="linear", factor=2.0),
        ),
        (
            {
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 512,
                }
            },
            RopeConfig(kind="llama3", factor=8.0, original_context_length=512),
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 2e4}},
            RopeConfig(base=2e4, kind="yarn", factor=4.0, original_context_length=1024),
        ),
    ],
)
def test_rope_in_both_spellings(fields: dict[str, Any], rope: RopeConfig, tmp_path: Path) -> None:
    without = {"rope_theta": ..., "rope_scaling": ..., "rope_parameters": ...}
    assert open_checkpoint(changed(tmp_path / "tiny", without | fields)).config.rope == rope


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architectures"),
        ({"architectures": ...}, "architectures"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 64}, "sliding_window"),
        ({"use_sliding_window": True, "sliding_window": 64}, "sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 2.0}}, "longrope"),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "partial_rotary_factor",
        ),
        ({"rope_parameters": {"rope_theta": -1.0}}, "rope base"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"vocab_size": 513}, "embed_tokens"),
        ({"num_hidden_layers": ...}, "num_hidden_layers"),
        ({"num_hidden_layers": 10**9}, "layers"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"eos_token_id": [1, "x"]}, "eos_token_id"),
        ({"eos_token_id": 10**6}, "1000000"),
        ({"bos_token_id": 1.5}, "bos_token_id"),
        ({"tie_word_embeddings": False}, "lm_head"),
    ],
)
def test_unsupported_options_are_named(fields: dict[str, Any], named: str, tmp_path: Path) -> None:
    folder = changed(tmp_path / "tiny", fields)
    with pytest.raises(WeightsError, match=named) as caught:
        open_checkpoint(folder)
    assert str(folder) in str(caught.value)


def test_a_window_as_long_as_the_context_is_none(tmp_path: Path) -> None:
    fields = {"architectures": ["MistralForCausalLM"], "sliding_window": 1024}
    assert open_checkpoint(changed(tmp_path / "tiny", fields)).config.context_length == 1024


def test_ends_of_turns_come_from_every_file(tmp_path: Path) -> None:
    folder = changed(tmp_path / "tiny", {"eos_token_id": 7})
    (folder / "generation_config.json").write_text('{"eos_token_id": [9, 2]}')
    (folder / "tokenizer_config.json").write_text(
        '{"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>", '
        '"add_bos_token": true}'
    )
    checkpoint = open_checkpoint(folder)
    assert checkpoint.eos_ids == (2, 7, 9, 0), "<|endoftext|>, id 0, ends turns by its name"
    assert checkpoint.bos_id == 1 and checkpoint.add_bos


def test_chat_template_from_either_file(tmp_path: Path) -> None:
    settings = {
        "chat_template": [
            {"name": "tool_use", "template": "T"},
            {"name": "default", "template": "D"},
        ]
    }
    folder = changed(tmp_path / "tiny", settings, "tokenizer_config.json")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    assert open_checkpoint(folder).chat_template == "D"
    (folder / "chat_template.jinja").write_text("J")
    assert open_checkpoint(folder).chat_template == "J"


def test_bos_is_added_when_the_tokenizer_s_template_says_so(tmp_path: Path) -> None:
    template = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {
            "<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}
        },
    }
    processor = {"type": "Sequence", "processors": [{"type": "ByteLevel"}, template]}
    folder = changed(tmp_path / "tiny", {"post_processor": processor}, "tokenizer.json")
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<|im_start|>"}')
    assert open_checkpoint(folder).add_bos


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny")
    whole = open_checkpoint(folder)
    expected = {name: whole.load(name, torch.float32) for name in whole.tensors}
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(names)}
    for i in range(2):
        save_file({n: tensors[n] for n in names[i::2]}, folder / f"model-{i}.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    sharded = open_checkpoint(folder)
    assert all(torch.equal(sharded.load(name, torch.float32), expected[name]) for name in expected)

    index.write_text(json.dumps({"weight_map": weight_map | {names[0]: "../secret.safetensors"}}))
    with pytest.raises(WeightsError, match="outside the folder"):
        open_checkpoint(folder)
    index.write_text(json.dumps({"weight_map": weight_map | {names[0]: "model-1.safetensors"}}))
    with pytest.raises(WeightsError, match=r"missing, though .*index"):
        open_checkpoint(folder)
    index.write_text(json.dumps({"weight_map": weight_map | {names[0]: "model-9.safetensors"}}))
    with pytest.raises(WeightsError, match=r"model-9\.safetensors"):
        open_checkpoint(folder)


def test_integer_weights_are_refused_by_name(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name].to(torch.int8)}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match="up_proj.weight' is of type I8"):
        open_checkpoint(folder)


def test_a_folder_without_weights_or_tokenizer_says_so(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match="tokenizer.json"):
        open_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"no model\.safetensors"):
        open_checkpoint(folder)
