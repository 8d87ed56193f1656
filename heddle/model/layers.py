"""The parts of a decoder layer: normalisation, attention, feed-forward, experts.

Source: Llama (Touvron et al. 2023, arXiv:2302.13971) and, for normalised queries and keys, Qwen3
(arXiv:2505.09388). Query, key and value projections share one matrix, gate and up another: fewer,
larger products.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, rms_norm, silu

from heddle.model.config import ModelConfig
from heddle.model.experts import Experts
from heddle.model.memory import Memory
from heddle.model.rope import Angles, rotate
from heddle.model.router import Choice, Routing
from heddle.model.slots import Pooler


@dataclass(frozen=True, kw_only=True)
class Context:
    """What layers need to know about the tokens they are given, besides their states.

    In a later loop of the thinking block these are the packed batch's `rows` that still think.
    """

    angles: Angles
    memory: Memory
    routing: Routing | None = None
    replay_TRYE: Tensor | None = None
    loop: int = 1
    rows: Tensor | None = None

    def part(self, rows: Tensor) -> "Context":
        """Return the context of some of the tokens as if they were the batch; see `Memory.part`."""
        return replace(
            self._of(rows),
            memory=self.memory.part(rows),
            replay_TRYE=None if self.replay_TRYE is None else self.replay_TRYE[rows],
        )

    def again(self, loop: int, rows: Tensor) -> "Context":
        """Return the context of some of the tokens in a later loop."""
        return replace(self._of(rows), loop=loop, rows=rows)

    def replayed_TE(self, layer: int) -> Tensor | None:
        """Return the experts that these tokens must take in a layer, if that is given."""
        if self.replay_TRYE is None:
            return None
        chosen_TE = self.replay_TRYE[:, self.loop - 1, layer]
        return chosen_TE if self.rows is None else chosen_TE[self.rows]

    def attend(
        self, layer: int, q_THC: Tensor, k_TKC: Tensor, v_TKC: Tensor, pooler: Pooler | None
    ) -> Tensor:
        """Return the tokens' attention at their loop."""
        if self.rows is None:
            return self.memory.attend(layer, q_THC, k_TKC, v_TKC, pooler)
        return self.memory.attend_again(layer, q_THC, k_TKC, v_TKC, loop=self.loop, rows=self.rows)

    def _of(self, rows: Tensor) -> "Context":
        routing = self.routing.rows(rows) if self.routing else None
        return replace(self, angles=self.angles.rows(rows), routing=routing)


class RMSNorm(nn.Module):
    """Scale each row to unit root mean square (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, width: int, *, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight.shape, self.weight, self.eps)


class Lora(nn.Module):
    """A map of low rank that starts at zero (Hu et al. 2021, arXiv:2106.09685)."""

    def __init__(self, in_width: int, out_width: int, *, rank: int):
        super().__init__()
        self.down = nn.Linear(in_width, rank, bias=False)
        self.up = nn.Linear(rank, out_width, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


class LayerLora(nn.Module):
    """What later loops add to a layer's four projections."""

    def __init__(self, config: ModelConfig, *, rank: int):
        super().__init__()
        heads_width = config.num_heads * config.head_width
        kv_width = config.num_kv_heads * config.head_width
        self.qkv = Lora(config.width, heads_width + 2 * kv_width, rank=rank)
        self.out = Lora(heads_width, config.width, rank=rank)
        self.gate_up = Lora(config.width, 2 * config.ffn_width, rank=rank)
        self.down = Lora(config.ffn_width, config.width, rank=rank)


def project(x: Tensor, projection: nn.Linear, lora: Lora | None) -> Tensor:
    """Apply a projection, and what a later loop adds to it."""
    return projection(x) if lora is None else projection(x) + lora(x)


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
        self.pool = Pooler(config, config.memory) if config.memory else None

    def forward(self, x_TD: Tensor, context: Context, lora: LayerLora | None = None) -> Tensor:
        projected = project(x_TD, self.qkv, lora and lora.qkv)
        q_THC, k_TKC, v_TKC = projected.unflatten(-1, (-1, self.head_width)).split(
            [self.num_heads, self.num_kv_heads, self.num_kv_heads], dim=1
        )
        q_THC = rotate(self.q_norm(q_THC), context.angles)
        k_TKC = rotate(self.k_norm(k_TKC), context.angles)
        attended_THC = context.attend(self.layer, q_THC, k_TKC, v_TKC, self.pool)
        return project(attended_THC.flatten(1), self.out, lora and lora.out)


class SwiGLU(nn.Module):
    """Gated feed-forward (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.ffn_width, bias=False)
        self.down = nn.Linear(config.ffn_width, config.width, bias=False)

    def forward(self, x_TD: Tensor, lora: LayerLora | None = None) -> Tensor:
        gate_TF, up_TF = project(x_TD, self.gate_up, lora and lora.gate_up).chunk(2, dim=-1)
        return project(silu(gate_TF) * up_TF, self.down, lora and lora.down)


class Layer(nn.Module):
    """One pre-norm decoder layer, with experts beside its feed-forward if there is a fabric."""

    def __init__(self, config: ModelConfig, *, layer: int):
        super().__init__()
        self.attention_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config, layer=layer)
        self.ffn_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.ffn = SwiGLU(config)
        self.experts = Experts(config.fabric, width=config.width) if config.fabric else None

    def forward(
        self, x_TD: Tensor, context: Context, lora: LayerLora | None = None
    ) -> tuple[Tensor, Choice | None]:
        x_TD = x_TD + self.attention(self.attention_norm(x_TD), context, lora)
        read_TD = self.ffn_norm(x_TD)
        x_TD = x_TD + self.ffn(read_TD, lora)
        if self.experts is None or context.routing is None:
            return x_TD, None
        replayed_TE = context.replayed_TE(self.attention.layer)
        mix_TD, choice = self.experts(read_TD, context.routing, replayed_TE)
        return x_TD + mix_TD, choice


class Layers(nn.ModuleList):
    """A network's layers."""

    def forward(
        self,
        x_TD: Tensor,
        context: Context,
        loras: nn.ModuleList | None = None,
        *,
        part: slice,
    ) -> tuple[Tensor, list[Choice]]:
        """Run a part of them, and return the states and the choices of those with experts.

        A slice of a `ModuleList` would do, but takes longer to make than some layers to run.
        """
        layers, choices = list(self)[part], []
        for layer, lora in zip(layers, loras or [None] * len(layers), strict=True):
            x_TD, choice = layer(x_TD, context, lora)
            if choice is not None:
                choices.append(choice)
        return x_TD, choices


class Vocabulary(nn.Module):
    """A matrix with one row a token: the embedding, and the head."""

    weight: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.vocab_size, config.width))
        if not self.weight.is_meta:  # where drawing does nothing, after seconds of imports
            nn.init.normal_(self.weight, std=0.02)


class Embedding(Vocabulary):
    """From token ids to vectors."""

    def forward(self, token_T: Tensor) -> Tensor:
        return embedding(token_T, self.weight)


class Head(Vocabulary):
    """From hidden states to logits; shares the embedding's matrix when tied."""

    def forward(self, x_ND: Tensor) -> Tensor:
        return linear(x_ND, self.weight).float()
