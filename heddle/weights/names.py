"""Which tensors a network has: names (ours, Hugging Face's, GGUF's) and shapes.

Read by `contents` (to find tensors and to check them) and by `export` (to write them). Foreign
names: `modeling_llama.py`, `modeling_qwen2.py`, `modeling_qwen3.py` of
https://github.com/huggingface/transformers, and `gguf-py/gguf/constants.py` of
https://github.com/ggml-org/llama.cpp.
"""

from typing import NamedTuple

from heddle.model.config import ModelConfig


class Slot(NamedTuple):
    """One of our tensors, and the parts stacked row-wise in it: foreign names and shapes."""

    name: str
    hugging_face: tuple[str, ...]
    gguf: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


# Ours, Hugging Face's, GGUF's, the shape of each part, and the option that brings the tensor.
# D width, V vocabulary, F feed-forward width, C channels of a head, Q and K all heads' rows.
_Row = tuple[str, str, str, str, str]
_MODEL: tuple[_Row, ...] = (
    ("embed.weight", "model.embed_tokens.weight", "token_embd.weight", "VD", ""),
    ("norm.weight", "model.norm.weight", "output_norm.weight", "D", ""),
)
_HEAD: _Row = ("head.weight", "lm_head.weight", "output.weight", "VD", "")
_LAYER: tuple[_Row, ...] = (
    ("attention_norm.weight", "input_layernorm.weight", "attn_norm.weight", "D", ""),
    (
        "attention.qkv.weight",
        "self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight",
        "attn_q.weight attn_k.weight attn_v.weight",
        "QD KD KD",
        "",
    ),
    (
        "attention.qkv.bias",
        "self_attn.q_proj.bias self_attn.k_proj.bias self_attn.v_proj.bias",
        "attn_q.bias attn_k.bias attn_v.bias",
        "Q K K",
        "qkv_bias",
    ),
    ("attention.out.weight", "self_attn.o_proj.weight", "attn_output.weight", "DQ", ""),
    ("attention.out.bias", "self_attn.o_proj.bias", "attn_output.bias", "D", "out_bias"),
    ("attention.q_norm.weight", "self_attn.q_norm.weight", "attn_q_norm.weight", "C", "qk_norm"),
    ("attention.k_norm.weight", "self_attn.k_norm.weight", "attn_k_norm.weight", "C", "qk_norm"),
    ("ffn_norm.weight", "post_attention_layernorm.weight", "ffn_norm.weight", "D", ""),
    (
        "ffn.gate_up.weight",
        "mlp.gate_proj.weight mlp.up_proj.weight",
        "ffn_gate.weight ffn_up.weight",
        "FD FD",
        "",
    ),
    ("ffn.down.weight", "mlp.down_proj.weight", "ffn_down.weight", "DF", ""),
)


def slots(config: ModelConfig) -> list[Slot]:
    """Return every tensor of a network of this shape."""
    lengths = {
        "V": config.vocab_size,
        "D": config.width,
        "F": config.ffn_width,
        "C": config.head_width,
        "Q": config.num_heads * config.head_width,
        "K": config.num_kv_heads * config.head_width,
    }

    def slot(row: _Row, ours: str = "", hugging_face: str = "", gguf: str = "") -> Slot:
        return Slot(
            ours + row[0],
            tuple(hugging_face + name for name in row[1].split()),
            tuple(gguf + name for name in row[2].split()),
            tuple(tuple(lengths[letter] for letter in shape) for shape in row[3].split()),
        )

    rows = _MODEL if config.tied_embeddings else (*_MODEL, _HEAD)
    found = [slot(row) for row in rows]
    layer_rows = [row for row in _LAYER if not row[4] or getattr(config, row[4])]
    for i in range(config.num_layers):
        found += [
            slot(row, f"layers.{i}.", f"model.layers.{i}.", f"blk.{i}.") for row in layer_rows
        ]
    return found
