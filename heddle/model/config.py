"""The shape of a network: what a checkpoint must say before its tensors mean anything.

Read by `weights` (which fills it from GGUF or Hugging Face fields) and by every module of `model`.
"""

from dataclasses import dataclass
from typing import Literal

from heddle.errors import ConfigError

RopeKind = Literal["default", "linear", "llama3", "yarn"]


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864) and its published stretchings.

    `kind` and the fields it uses follow Hugging Face `rope_scaling`:
    linear: `factor`; llama3: `factor`, `low_freq_factor`, `high_freq_factor`,
        `original_context_length`;
    yarn (arXiv:2309.00071): `factor`, `original_context_length`, `beta_fast`, `beta_slow`,
    `attention_factor`.
    """

    base: float = 10_000.0
    kind: RopeKind = "default"
    factor: float = 1.0
    original_context_length: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None

    def __post_init__(self):
        if self.base <= 0 or self.factor <= 0:
            raise ConfigError(
                f"rope base and factor must be positive, not {self.base} and {self.factor}"
            )
        if self.kind in ("llama3", "yarn") and not self.original_context_length:
            raise ConfigError(f"rope kind {self.kind!r} needs original_context_length")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A dense pre-norm decoder of the Llama or Qwen kind; widths are counts of channels.

    `qk_norm` normalises queries and keys (Qwen3). `qkv_bias` and `out_bias` are biases of
    attention's projections: both with Llama's `attention_bias`, the first alone in Qwen2.
    """

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    ffn_width: int
    context_length: int
    norm_eps: float = 1e-5
    rope: RopeConfig = RopeConfig()
    tied_embeddings: bool = True
    qk_norm: bool = False
    qkv_bias: bool = False
    out_bias: bool = False

    def __post_init__(self):
        for name in (
            "vocab_size",
            "width",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "head_width",
            "ffn_width",
            "context_length",
        ):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"num_heads ({self.num_heads}) must be a multiple of "
                f"num_kv_heads ({self.num_kv_heads})"
            )
        if self.head_width % 2:
            raise ConfigError(
                f"head_width must be even for rotary positions, not {self.head_width}"
            )
