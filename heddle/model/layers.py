"""The parts of a decoder layer: normalisation, attention, feed-forward.

Source: Llama (Touvron et al. 2023, arXiv:2302.13971) and, for normalised queries and keys, Qwen3
(arXiv:2505.09388). Query, key and value projections share one matrix, gate and up another: fewer,
larger products.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, silu

from heddle.model.config import ModelConfig
from heddle.model.memory import Memory
from heddle.model.rope import Angles, rotate


class RMSNorm(nn.Module):
    """Scale each row to unit root mean square (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, width: int, *, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) over a `Memory`."""

    def __init__(self, config: ModelConfig, *, layer: int):
        super().__init__()
        self.layer = layer
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.head_width = config.head_width
        num_projected = self.num_heads + 2 * self.num_kv_heads
        self.qkv = nn.Linear(config.width, num_projected * self.head_width, bias=config.qkv_bias)
        self.out = nn.Linear(self.num_heads * self.head_width, config.width, bias=config.out_bias)
        self.q_norm, self.k_norm = (
            RMSNorm(self.head_width, eps=config.norm_eps) if config.qk_norm else nn.Identity()
            for _ in range(2)
        )

    def forward(self, x_TD: Tensor, angles: Angles, memory: Memory) -> Tensor:
        heads_TXC = self.qkv(x_TD).view(x_TD.shape[0], -1, self.head_width)
        q_THC, k_TKC, v_TKC = heads_TXC.split(
            [self.num_heads, self.num_kv_heads, self.num_kv_heads], dim=1
        )
        q_THC = rotate(self.q_norm(q_THC), angles)
        k_TKC = rotate(self.k_norm(k_TKC), angles)
        return self.out(memory.attend(self.layer, q_THC, k_TKC, v_TKC).flatten(1))


class SwiGLU(nn.Module):
    """Gated feed-forward (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.ffn_width, bias=False)
        self.down = nn.Linear(config.ffn_width, config.width, bias=False)

    def forward(self, x_TD: Tensor) -> Tensor:
        gate_TF, up_TF = self.gate_up(x_TD).chunk(2, dim=-1)
        return self.down(silu(gate_TF) * up_TF)


class Layer(nn.Module):
    """One pre-norm decoder layer."""

    def __init__(self, config: ModelConfig, *, layer: int):
        super().__init__()
        self.attention_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config, layer=layer)
        self.ffn_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.ffn = SwiGLU(config)

    def forward(self, x_TD: Tensor, angles: Angles, memory: Memory) -> Tensor:
        x_TD = x_TD + self.attention(self.attention_norm(x_TD), angles, memory)
        return x_TD + self.ffn(self.ffn_norm(x_TD))


class Head(nn.Module):
    """Project hidden states to vocabulary logits; shares the embedding's matrix when tied."""

    weight: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.vocab_size, config.width))

    def forward(self, x_ND: Tensor) -> Tensor:
        return linear(x_ND, self.weight).float()
