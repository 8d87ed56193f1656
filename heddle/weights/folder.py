"""Hugging Face folders: config.json beside the tensors that `sharded` reads.

Called by `checkpoint.open_checkpoint`. Fields: `configuration_llama.py` and its siblings in
https://github.com/huggingface/transformers; release 5 writes `rope_parameters`, earlier ones
`rope_scaling` and `rope_theta`.
"""

import math
from itertools import chain
from pathlib import Path

from heddle.errors import WeightsError
from heddle.model.config import ModelConfig, RopeConfig
from heddle.weights.contents import (
    Checkpoint,
    LazyParts,
    check_token_ids,
    count_words,
    match_tensors,
    model_name,
)
from heddle.weights.fields import Fields, read_json
from heddle.weights.folder_tokenizer import read_speech
from heddle.weights.sharded import DTYPES, SafetensorFiles

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
# Options that change the arithmetic, with the one value that Heddle computes (SwiGLU is "silu").
FIXED = {
    "hidden_act": "silu",
    "mlp_bias": False,
    "quantization_config": None,
    "partial_rotary_factor": 1.0,
}
ROPE_FIXED = {
    "partial_rotary_factor": 1.0,
    "mscale": None,
    "mscale_all_dim": None,
    "truncate": True,
}


def read_folder(path: Path) -> Checkpoint:
    """Open a folder; a WeightsError names file and field of what cannot be used."""
    fields = Fields(path / "config.json", read_json(path / "config.json"))
    tensors = SafetensorFiles(path)
    config = _config(fields, has_head="lm_head.weight" in tensors.files)
    # some writers keep a second copy of a matrix that serves at both ends
    ignored = ["lm_head.weight"] if config.tied_embeddings else []
    sources = match_tensors(path, config, tensors.shapes, names="hugging_face", ignored=ignored)
    speech = read_speech(path, fields)
    check_token_ids(path, (speech.bos_id, *speech.eos_ids), config.vocab_size)
    num_parameters = sum(math.prod(tensors.shapes[name]) for name in chain(*sources.values()))
    return Checkpoint(
        name=model_name(path.resolve()),
        path=path,
        config=config,
        tensors=LazyParts(sources, tensors.read),
        tokenizer_json=speech.tokenizer_json,
        chat_template=speech.chat_template,
        bos_id=speech.bos_id,
        eos_ids=speech.eos_ids,
        add_bos=speech.add_bos,
        size_bytes=tensors.size_bytes,
        description=(
            f"safetensors {DTYPES[tensors.dtype(sources['embed.weight'][0])]}, "
            f"{count_words(num_parameters)}"
        ),
    )


def _config(fields: Fields, *, has_head: bool) -> ModelConfig:
    architectures = fields.values.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else None
    if architecture not in ARCHITECTURES:
        raise WeightsError(
            f"{fields.path}: field 'architectures' is {str(architectures)[:60]}; Heddle reads "
            f"{', '.join(ARCHITECTURES)}"
        )
    for key, value in FIXED.items():
        fields.refuse(key, value)
    context_length = fields.count("max_position_embeddings")
    _refuse_windows(fields, architecture, context_length)
    width, num_heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    qwen3 = architecture == "Qwen3ForCausalLM"
    attention_bias = fields.get("attention_bias", bool, False)
    return ModelConfig(
        vocab_size=fields.count("vocab_size"),
        width=width,
        num_layers=fields.count("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=fields.count("num_key_value_heads", num_heads),
        head_width=fields.count("head_dim", 128 if qwen3 else width // num_heads),
        ffn_width=fields.count("intermediate_size"),
        context_length=context_length,
        norm_eps=fields.get("rms_norm_eps", float),
        rope=_rope(fields, context_length),
        tied_embeddings=fields.get("tie_word_embeddings", bool, not has_head),
        qk_norm=qwen3,
        qkv_bias=attention_bias or architecture == "Qwen2ForCausalLM",
        out_bias=attention_bias,
    )


def _refuse_windows(fields: Fields, architecture: str, context_length: int) -> None:
    layer_types = fields.values.get("layer_types") or []
    fields.refuse("layer_types", ["full_attention"] * len(layer_types))
    window_is_used = fields.get("use_sliding_window", bool, architecture == "MistralForCausalLM")
    if window_is_used and fields.get("sliding_window", int, context_length) < context_length:
        fields.refuse("sliding_window", None)


def _rope(fields: Fields, context_length: int) -> RopeConfig:
    given = fields.get("rope_parameters", dict, fields.get("rope_scaling", dict, {}))
    scaling = Fields(fields.path, given)
    for key, value in ROPE_FIXED.items():
        scaling.refuse(key, value)
    base = scaling.get("rope_theta", float, fields.get("rope_theta", float, 10_000.0))
    kind = scaling.get("rope_type", str, scaling.get("type", str, "default"))
    if kind == "default":
        return RopeConfig(base=base)
    factor = scaling.get("factor", float)
    if kind == "linear":
        return RopeConfig(base=base, kind="linear", factor=factor)
    original = scaling.count("original_max_position_embeddings", context_length)
    if kind == "llama3":
        return RopeConfig(
            base=base,
            kind="llama3",
            factor=factor,
            original_context_length=original,
            low_freq_factor=scaling.get("low_freq_factor", float),
            high_freq_factor=scaling.get("high_freq_factor", float),
        )
    if kind != "yarn":
        raise WeightsError(
            f"{fields.path}: rope type {kind!r} is not default, linear, llama3 or yarn"
        )
    return RopeConfig(
        base=base,
        kind="yarn",
        factor=factor,
        original_context_length=original,
        beta_fast=scaling.get("beta_fast", float, 32.0),
        beta_slow=scaling.get("beta_slow", float, 1.0),
        attention_factor=scaling.find("attention_factor", float),
    )
