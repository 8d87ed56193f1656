"""The seam between a layer and what it remembers.

Two forms stand behind it: `WholeSequences` here, for training and for plain forwards, and
`engine/paged_memory.py`, the serving cache. The network cannot tell them apart.
"""

from itertools import groupby, pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from heddle.model.config import MemoryConfig
from heddle.model.paging import choose_pages
from heddle.model.slots import Pooler, sees_exactly, sees_summarised

_SCAN_TOKENS = 64


class Memory(Protocol):
    """Keys and values of the past, by layer, and the running mean that the gate reads."""

    def attend(
        self, layer: int, q_THC: Tensor, k_TKC: Tensor, v_TKC: Tensor, pooler: Pooler | None = None
    ) -> Tensor:
        """Store the batch's keys and values and return each query's causal attention, `o_THC`.

        Keys and queries arrive rotated. A token sees itself and what came before it in its own
        sequence; with a pooler, what is old through slots.
        """
        ...

    def attend_again(
        self, layer: int, q_NHC: Tensor, k_NKC: Tensor, v_NKC: Tensor, *, loop: int, rows: Tensor
    ) -> Tensor:
        """Return the attention of the N tokens at `rows` of the batch, in a later loop.

        They see what `attend` showed them, with pages of their own choice, and the keys and values
        given here of tokens up to themselves in their aligned block of the sequence.
        """
        ...

    def running_mean(self, x_TJ: Tensor, *, decay: float) -> Tensor:
        """Return `s_i = decay * s_{i-1} + (1 - decay) * x_i` along each sequence."""
        ...


class _Group(NamedTuple):
    """Neighbouring sequences of equal length, at rows `start` to `end` of the batch."""

    start: int
    end: int
    length: int


class _Seen(NamedTuple):
    """What a group's tokens see of the first loop: T tokens, then M slots, of each sequence.

    `mask_TL` is added to logits; None is plain causality. `block_L` numbers the block of each token
    and slot.
    """

    k_SLKC: Tensor
    v_SLKC: Tensor
    mask_TL: Tensor | None = None
    block_L: Tensor | None = None


class WholeSequences:
    """Every sequence is present from its first token; nothing is kept between forward passes.

    Without `config` all is read exactly, whatever the network has for summaries.
    """

    def __init__(
        self,
        bounds_S1: tuple[int, ...],
        *,
        block_tokens: int = 64,
        config: MemoryConfig | None = None,
    ):
        self._groups = _groups(bounds_S1)
        self._block_tokens = block_tokens
        self._config = config
        self._seen: dict[int, list[_Seen]] = {}
        self._masks: dict[int, list[Tensor]] = {}

    def attend(
        self, layer: int, q_THC: Tensor, k_TKC: Tensor, v_TKC: Tensor, pooler: Pooler | None = None
    ) -> Tensor:
        """See `Memory.attend`."""
        parts, self._seen[layer] = [], []
        for group in self._groups:
            q_STHC, k_STKC, v_STKC = (_of(group, x) for x in (q_THC, k_TKC, v_TKC))
            seen = self._look(k_STKC, v_STKC, pooler)
            mask = None if seen.mask_TL is None else self._page_in(seen, q_STHC, seen.mask_TL)
            out_STHC = attention(
                q_STHC, seen.k_SLKC, seen.v_SLKC, mask=mask, is_causal=mask is None
            )
            parts.append(out_STHC.flatten(0, 1))
            self._seen[layer].append(seen)
        return torch.cat(parts)

    def attend_again(
        self, layer: int, q_NHC: Tensor, k_NKC: Tensor, v_NKC: Tensor, *, loop: int, rows: Tensor
    ) -> Tensor:
        """See `Memory.attend_again`."""
        parts = []
        if len(rows) == self._groups[-1].end:
            for group, seen in zip(self._groups, self._seen[layer], strict=True):
                all_T = torch.arange(group.length, device=rows.device)
                q_STHC, k_STKC, v_STKC = (_of(group, x) for x in (q_NHC, k_NKC, v_NKC))
                out_STHC = self._attend_again(seen, q_STHC, k_STKC, v_STKC, all_T)
                parts.append(out_STHC.flatten(0, 1))
            return torch.cat(parts)
        for group, seen in zip(self._groups, self._seen[layer], strict=True):
            starts = torch.arange(group.start, group.end + 1, group.length, device=rows.device)
            cuts = torch.searchsorted(rows, starts).tolist()
            for number, (low, high) in enumerate(pairwise(cuts)):
                if low == high:
                    continue
                one = seen._replace(
                    k_SLKC=seen.k_SLKC[number : number + 1], v_SLKC=seen.v_SLKC[number : number + 1]
                )
                q_NHC_, k_NKC_, v_NKC_ = (x[None, low:high] for x in (q_NHC, k_NKC, v_NKC))
                position_N = rows[low:high] - starts[number]
                parts.append(self._attend_again(one, q_NHC_, k_NKC_, v_NKC_, position_N)[0])
        return torch.cat(parts) if parts else q_NHC  # of no token

    def running_mean(self, x_TJ: Tensor, *, decay: float) -> Tensor:
        """See `Memory.running_mean`."""
        parts = []
        for group in self._groups:
            x_STJ = _of(group, x_TJ)
            start_SJ = torch.zeros_like(x_STJ[:, 0])
            parts.append(running_mean(x_STJ, start_SJ, decay=decay).flatten(0, 1))
        return torch.cat(parts)

    def _look(self, k_STKC: Tensor, v_STKC: Tensor, pooler: Pooler | None) -> _Seen:
        """Add the slots that some token of these sequences sees, and say which sees what."""
        num_seqs, length = k_STKC.shape[:2]
        if self._config is None or pooler is None:
            return _Seen(k_STKC, v_STKC)
        ranges = self._config.summarised((length - 1) // self._config.block_tokens)
        if ranges[0][1] == 0:
            return _Seen(k_STKC, v_STKC)
        if length not in self._masks:
            self._masks[length] = _visibility(self._config, length, k_STKC.device)
        k_parts, v_parts = [k_STKC], [v_STKC]
        mask_parts = [additive(self._masks[length][0], k_STKC.dtype)]
        block_parts = [torch.arange(length, device=k_STKC.device) // self._config.block_tokens]
        for tier, (_, end) in enumerate(ranges):
            if end == 0:
                break
            size = end * self._config.block_tokens
            k_BNKC, v_BNKC = (
                x[:, :size].reshape(num_seqs * end, -1, *x.shape[2:]) for x in (k_STKC, v_STKC)
            )
            block_B = torch.arange(end, device=k_STKC.device).repeat(num_seqs)
            slots = pooler(k_BNKC, v_BNKC, block_B, tier=tier)
            for found, into in ((slots.k_BMKC, k_parts), (slots.v_BMKC, v_parts)):
                into.append(found.reshape(num_seqs, -1, *found.shape[2:]))
            bias_M = slots.bias_BM[:end].flatten()
            block_parts.append(block_B[:end].repeat_interleave(slots.k_BMKC.shape[1]))
            mask_parts.append(additive(self._masks[length][tier + 1], k_STKC.dtype) + bias_M)
        mask_TL = torch.cat(mask_parts, dim=1).to(k_STKC.dtype)
        return _Seen(
            torch.cat(k_parts, dim=1), torch.cat(v_parts, dim=1), mask_TL, torch.cat(block_parts)
        )

    def _page_in(self, seen: _Seen, q_SNHC: Tensor, mask_NL: Tensor) -> Tensor:
        """Return the mask of queries that read some old blocks exactly, in place of their slots."""
        paged_blocks = self._config.paged_blocks if self._config else 0
        if paged_blocks == 0 or seen.mask_TL is None or seen.block_L is None:
            return mask_NL
        is_token_L = torch.arange(len(seen.block_L), device=mask_NL.device) < len(seen.mask_TL)
        chosen_SNB = choose_pages(
            q_SNHC,
            seen.k_SLKC,
            mask_NL,
            seen.block_L[~is_token_L],
            num_blocks=int(seen.block_L.max()) + 1,
            paged_blocks=paged_blocks,
        )
        chosen_SNL = chosen_SNB.index_select(-1, seen.block_L)
        return torch.where(chosen_SNL, additive(is_token_L, mask_NL.dtype), mask_NL)[:, None]

    def _attend_again(
        self, seen: _Seen, q_SNHC: Tensor, k_SNKC: Tensor, v_SNKC: Tensor, position_N: Tensor
    ) -> Tensor:
        if seen.mask_TL is None:
            key_L = torch.arange(seen.k_SLKC.shape[1], device=position_N.device)
            first_NL = key_L <= position_N[:, None]
        else:
            first_NL = self._page_in(seen, q_SNHC, seen.mask_TL[position_N])
        return attention(
            q_SNHC,
            torch.cat([seen.k_SLKC, k_SNKC], dim=1),
            torch.cat([seen.v_SLKC, v_SNKC], dim=1),
            mask=with_own_block(first_NL, position_N, position_N, self._block_tokens),
        )


def attention(
    q_STHC: Tensor,
    k_SLKC: Tensor,
    v_SLKC: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Attend with T queries over L keys; `mask`: true where a query may look, or added to logits.

    It is (T, L), or (S, 1, T, L) where sequences differ.
    """
    out_SHTC = scaled_dot_product_attention(
        q_STHC.transpose(1, 2),
        k_SLKC.transpose(1, 2),
        v_SLKC.transpose(1, 2),
        attn_mask=mask,
        is_causal=is_causal,
        enable_gqa=True,
    )
    return out_SHTC.transpose(1, 2)


def with_own_block(first_NL: Tensor, query_N: Tensor, own_M: Tensor, block_tokens: int) -> Tensor:
    """Widen a mask of the first loop's keys, (..., N, L), by a later loop's, from positions.

    A token sees the same loop's keys of tokens up to itself in its own aligned block.
    """
    is_past_NM = own_M <= query_N[:, None]
    own_NM = is_past_NM & (own_M // block_tokens == query_N[:, None] // block_tokens)
    if first_NL.dtype != torch.bool:
        own_NM = additive(own_NM, first_NL.dtype)
    return torch.cat([first_NL, own_NM.expand(*first_NL.shape[:-1], -1)], dim=-1)


def running_mean(x_STJ: Tensor, start_SJ: Tensor, *, decay: float) -> Tensor:
    """Return the decaying mean along each sequence, going on from `start_SJ`."""
    steps = torch.arange(min(x_STJ.shape[1], _SCAN_TOKENS), device=x_STJ.device)
    age = (steps[:, None] - steps).to(x_STJ.dtype)
    weights = torch.where(age >= 0, (1 - decay) * decay ** age.clamp(min=0), 0)
    fade = decay ** (steps + 1).to(x_STJ.dtype)
    parts = []
    for chunk in x_STJ.split(_SCAN_TOKENS, dim=1):
        num = chunk.shape[1]
        parts.append(weights[:num, :num] @ chunk + fade[:num, None] * start_SJ[:, None])
        start_SJ = parts[-1][:, -1]
    return torch.cat(parts, dim=1)


def _groups(bounds_S1: tuple[int, ...]) -> list[_Group]:
    spans = groupby(pairwise(bounds_S1), key=lambda span: span[1] - span[0])
    groups = []
    for length, members in spans:
        members = list(members)
        groups.append(_Group(members[0][0], members[-1][1], length))
    return groups


def _of(group: _Group, x: Tensor) -> Tensor:
    """Return a group's rows as (sequences, tokens, ...)."""
    return x[group.start : group.end].unflatten(0, (-1, group.length))


def _visibility(config: MemoryConfig, length: int, device: torch.device) -> list[Tensor]:
    """Return which tokens, then which slots of each tier, each token of a sequence sees."""
    position_T = torch.arange(length, device=device)
    ranges = config.summarised((length - 1) // config.block_tokens)
    return [
        sees_exactly(config, position_T, position_T),
        *(
            sees_summarised(config, position_T, tier=tier, num_blocks=end)
            for tier, (_, end) in enumerate(ranges)
        ),
    ]


def additive(sees: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask to add to logits: 0 where a token may look, else -inf."""
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, -torch.inf)
