"""The seam between a layer and what it remembers.

Two forms stand behind it: `WholeSequences` here, for training and for plain forwards, and
`engine/paged_memory.py`, the serving cache. The network cannot tell them apart.
"""

from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from heddle.model.config import MemoryConfig
from heddle.model.groups import Group, groups
from heddle.model.paging import choose_by_index, choose_pages
from heddle.model.rope import moved
from heddle.model.slots import Pooler, sees_exactly, sees_summarised

_SCAN_TOKENS = 64


class Memory(Protocol):
    """Keys and values of the past, by layer, and the running mean that the gate reads."""

    def attend(
        self, layer: int, q_THC: Tensor, k_TKC: Tensor, v_TKC: Tensor, pooler: Pooler | None = None
    ) -> Tensor:
        """Store the batch's keys and values and return each query's causal attention, `o_THC`.

        Keys and queries arrive rotated. A token sees itself and what came before it in its own
        sequence, of blocks that are closed as `close_blocks` says; with a pooler, what is old
        through slots.
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

    def part(self, rows: Tensor) -> "Memory":
        """Return the memory of some rows of the batch, in their order, as if they were the batch.

        Of each sequence these are all of its rows here, those of one aligned block, or none. What
        stands before them in the batch was closed in other parts.
        """
        ...

    def close_blocks(self) -> None:
        """Take note that all loops of all rows are done.

        Where a row is the last of an aligned block, tokens behind the block see each of its tokens
        by the keys and values of the last loop in which it gave any, in this batch and after it.
        """
        ...

    def running_mean(self, x_TJ: Tensor, *, decay: float) -> Tensor:
        """Return `s_i = decay * s_{i-1} + (1 - decay) * x_i` along each sequence."""
        ...


class KeysValues(NamedTuple):
    """Of T tokens."""

    k_TKC: Tensor
    v_TKC: Tensor


class _Seen(NamedTuple):
    """What a group's tokens, from `first` on, see besides their later loops: L tokens, then slots.

    `mask_TL` is added to logits; None is plain causality. `block_L` numbers the block of each token
    and slot. `page_TL` says which stand for a block that is paged in. Where blocks are further away
    than distances go, `num_far` of their tokens stand behind the slots once more, turned as if
    their block were the first: channels are then twice as many, zero for these or for all others.
    """

    first: int
    k_SLKC: Tensor
    v_SLKC: Tensor
    mask_TL: Tensor | None = None
    block_L: Tensor | None = None
    page_TL: Tensor | None = None
    index_SMKC: Tensor | None = None
    num_far: int = 0


class WholeSequences:
    """Every sequence is present from its first token; nothing is kept between forward passes.

    Without `config` all is read exactly, whatever the network has for summaries. With `rows` it is
    a part; `closed` has by layer what parts before it have left of the whole batch.
    """

    def __init__(
        self,
        bounds_S1: tuple[int, ...],
        *,
        block_tokens: int = 64,
        config: MemoryConfig | None = None,
        rows: Tensor | None = None,
        closed: dict[int, KeysValues] | None = None,
    ):
        self._bounds_S1, self._rows = bounds_S1, rows
        self._groups = groups(bounds_S1, rows)
        self._block_tokens = block_tokens
        self._config = config
        self._closed = {} if closed is None else closed
        self._newest: dict[int, KeysValues] = {}
        self._seen: dict[int, list[_Seen]] = {}
        self._masks: dict[tuple[int, int], list[Tensor]] = {}
        self._frequencies: Tensor | None = None

    def attend(
        self, layer: int, q_THC: Tensor, k_TKC: Tensor, v_TKC: Tensor, pooler: Pooler | None = None
    ) -> Tensor:
        """See `Memory.attend`."""
        parts, self._seen[layer] = [], []
        self._newest[layer] = KeysValues(k_TKC, v_TKC)
        for group in self._groups:
            q_STHC = group.of(q_THC)
            seen = self._look(group, layer, pooler)
            mask = None
            if group.first or seen.mask_TL is not None:
                position_T = torch.arange(group.first, group.until, device=q_THC.device)
                mask = self._mask(seen, q_STHC, position_T)
                q_STHC = self._with_far(seen, q_STHC, position_T)
            out_STHC = attention(
                q_STHC, seen.k_SLKC, seen.v_SLKC, mask=mask, is_causal=mask is None
            )
            parts.append(out_STHC.flatten(0, 1))
            self._seen[layer].append(seen)
        return torch.cat(parts) if parts else q_THC  # of no token

    def attend_again(
        self, layer: int, q_NHC: Tensor, k_NKC: Tensor, v_NKC: Tensor, *, loop: int, rows: Tensor
    ) -> Tensor:
        """See `Memory.attend_again`."""
        if self._rows is not None:
            new = zip(self._newest[layer], (k_NKC, v_NKC), strict=True)
            self._newest[layer] = KeysValues(*(x.index_copy(0, rows, x_N) for x, x_N in new))
        parts = []
        if self._groups and len(rows) == self._groups[-1].end:
            for group, seen in zip(self._groups, self._seen[layer], strict=True):
                all_T = torch.arange(group.first, group.until, device=rows.device)
                q_STHC, k_STKC, v_STKC = (group.of(x) for x in (q_NHC, k_NKC, v_NKC))
                out_STHC = self._attend_again(seen, q_STHC, k_STKC, v_STKC, all_T)
                parts.append(out_STHC.flatten(0, 1))
            return torch.cat(parts)
        for group, seen in zip(self._groups, self._seen[layer], strict=True):
            num = group.until - group.first
            starts = torch.arange(group.start, group.end + 1, num, device=rows.device)
            cuts = torch.searchsorted(rows, starts).tolist()
            for number, (low, high) in enumerate(pairwise(cuts)):
                if low == high:
                    continue
                one = seen._replace(
                    k_SLKC=seen.k_SLKC[number : number + 1], v_SLKC=seen.v_SLKC[number : number + 1]
                )
                q_NHC_, k_NKC_, v_NKC_ = (x[None, low:high] for x in (q_NHC, k_NKC, v_NKC))
                position_N = rows[low:high] - starts[number] + group.first
                parts.append(self._attend_again(one, q_NHC_, k_NKC_, v_NKC_, position_N)[0])
        return torch.cat(parts) if parts else q_NHC  # of no token

    def part(self, rows: Tensor) -> "WholeSequences":
        """See `Memory.part`."""
        return WholeSequences(
            self._bounds_S1,
            block_tokens=self._block_tokens,
            config=self._config,
            rows=rows,
            closed=self._closed,
        )

    def close_blocks(self) -> None:
        """See `Memory.close_blocks`."""
        if self._rows is None:  # nothing follows
            return
        for layer, newest in self._newest.items():
            closed = self._closed.get(layer)
            if closed is None:
                shape = (self._bounds_S1[-1], *newest.k_TKC.shape[1:])
                closed = KeysValues(*(x.new_zeros(shape) for x in newest))
            pairs = zip(closed, newest, strict=True)
            self._closed[layer] = KeysValues(*(x.index_copy(0, self._rows, n) for x, n in pairs))

    def running_mean(self, x_TJ: Tensor, *, decay: float) -> Tensor:
        """See `Memory.running_mean`."""
        parts = []
        for group in self._groups:
            x_STJ = group.of(x_TJ)
            start_SJ = torch.zeros_like(x_STJ[:, 0])
            parts.append(running_mean(x_STJ, start_SJ, decay=decay).flatten(0, 1))
        return torch.cat(parts)

    def _look(self, group: Group, layer: int, pooler: Pooler | None) -> _Seen:
        """Add the slots that some token of a group sees, and say which sees what."""
        k_STKC, v_STKC = (group.of(x) for x in self._newest[layer])
        if group.first:
            past = (x.index_select(0, group.past_P) for x in self._closed[layer])
            k_STKC, v_STKC = (
                torch.cat([old.unflatten(0, (-1, group.first)), new], dim=1)
                for old, new in zip(past, (k_STKC, v_STKC), strict=True)
            )
        num_seqs, length = k_STKC.shape[:2]
        if self._config is None or pooler is None:
            return _Seen(group.first, k_STKC, v_STKC)
        config, last = self._config, (length - 1) // self._config.block_tokens
        if config.num_old(last) == 0:
            return _Seen(group.first, k_STKC, v_STKC)
        self._frequencies = pooler.frequencies
        here = (group.first, length)
        if here not in self._masks:
            self._masks[here] = _visibility(config, *here, k_STKC.device)
        k_parts, v_parts = [k_STKC], [v_STKC]
        mask_parts = [additive(self._masks[here][0], k_STKC.dtype)]
        block_parts = [torch.arange(length, device=k_STKC.device) // config.block_tokens]
        for tier, (_, end) in enumerate(config.summarised(last)):
            if end == 0:
                break
            k_BNKC, v_BNKC, block_B = self._blocks(k_STKC, v_STKC, end)
            slots = pooler(k_BNKC, v_BNKC, block_B, tier=tier)
            for found, into in ((slots.k_BMKC, k_parts), (slots.v_BMKC, v_parts)):
                into.append(found.reshape(num_seqs, -1, *found.shape[2:]))
            bias_M = slots.bias_BM[:end].flatten()
            block_parts.append(block_B[:end].repeat_interleave(slots.k_BMKC.shape[1]))
            mask_parts.append(additive(self._masks[here][tier + 1], k_STKC.dtype) + bias_M)
        mask_TL = torch.cat(mask_parts, dim=1).to(k_STKC.dtype)
        seen = _Seen(
            group.first,
            torch.cat(k_parts, dim=1),
            torch.cat(v_parts, dim=1),
            mask_TL,
            torch.cat(block_parts),
            (torch.arange(mask_TL.shape[1], device=mask_TL.device) < length).expand_as(mask_TL),
        )
        if config.index_ratio is None:
            return seen
        old = self._blocks(k_STKC, v_STKC, config.num_old(last))
        index_SMKC = pooler.index(*old).reshape(num_seqs, -1, *k_STKC.shape[2:])
        return self._add_far(seen._replace(index_SMKC=index_SMKC), pooler.frequencies)

    def _blocks(self, k_STKC: Tensor, v_STKC: Tensor, num: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys and values of each sequence's first blocks, and the blocks' numbers."""
        assert self._config is not None, "there are summaries"
        num_seqs, size = len(k_STKC), num * self._config.block_tokens
        k_BNKC, v_BNKC = (
            x[:, :size].reshape(num_seqs * num, -1, *x.shape[2:]) for x in (k_STKC, v_STKC)
        )
        return k_BNKC, v_BNKC, torch.arange(num, device=k_STKC.device).repeat(num_seqs)

    def _add_far(self, seen: _Seen, frequencies: Tensor) -> _Seen:
        """Let tokens of blocks that are further away than distances go be seen without theirs."""
        config, block_L, mask_TL, page_TL = self._config, seen.block_L, seen.mask_TL, seen.page_TL
        assert config is not None and block_L is not None
        assert mask_TL is not None and page_TL is not None
        query_T = torch.arange(seen.first, seen.first + len(mask_TL), device=block_L.device)
        block_T = query_T // config.block_tokens
        if config.distance_blocks is None or block_T[-1] <= config.distance_blocks:
            return seen
        num_far = int(block_T[-1] - config.distance_blocks) * config.block_tokens
        is_far_TL = block_T[:, None] - block_L > config.distance_blocks
        back_F = -block_L[:num_far] * config.block_tokens
        far_SFKC = torch.stack([moved(k[:num_far], back_F, frequencies) for k in seen.k_SLKC])
        width = far_SFKC.shape[-1]
        never = torch.full_like(mask_TL[:, :num_far], -torch.inf)
        far_TF, is_far_TF = mask_TL[:, :num_far], is_far_TL[:, :num_far]
        nowhere_TL = mask_TL.masked_fill(is_far_TL & page_TL, -torch.inf)
        return seen._replace(
            k_SLKC=torch.cat([pad(seen.k_SLKC, (0, width)), pad(far_SFKC, (width, 0))], dim=1),
            v_SLKC=torch.cat([seen.v_SLKC, seen.v_SLKC[:, :num_far]], dim=1),
            mask_TL=torch.cat([nowhere_TL, torch.where(is_far_TF, far_TF, never)], dim=1),
            block_L=torch.cat([block_L, block_L[:num_far]]),
            page_TL=torch.cat([page_TL & ~is_far_TL, is_far_TF], dim=1),
            num_far=num_far,
        )

    def _with_far(self, seen: _Seen, q_SNHC: Tensor, position_N: Tensor) -> Tensor:
        """Return queries of twice the channels: what keys of far blocks meet stands behind."""
        config = self._config
        if seen.num_far == 0 or config is None or config.distance_blocks is None:
            return q_SNHC
        assert self._frequencies is not None, "`attend` has kept them"
        back_N = (config.distance_blocks - position_N // config.block_tokens) * config.block_tokens
        far_SNHC = torch.stack([moved(q_NHC, back_N, self._frequencies) for q_NHC in q_SNHC])
        return torch.cat([q_SNHC, far_SNHC], dim=-1)

    def _mask(self, seen: _Seen, q_SNHC: Tensor, position_N: Tensor) -> Tensor:
        """Return what queries at some positions see of it."""
        if seen.mask_TL is None:
            key_L = torch.arange(seen.k_SLKC.shape[1], device=position_N.device)
            return key_L <= position_N[:, None]
        return self._page_in(seen, q_SNHC, position_N)

    def _page_in(self, seen: _Seen, q_SNHC: Tensor, position_N: Tensor) -> Tensor:
        """Return the mask of queries that read some old blocks exactly, in place of their slots."""
        config = self._config
        assert config is not None and seen.mask_TL is not None
        mask_NL = seen.mask_TL[position_N - seen.first]
        if config.paged_blocks == 0 or seen.block_L is None or seen.page_TL is None:
            return mask_NL
        num_blocks = int(seen.block_L.max()) + 1
        if seen.index_SMKC is None:
            num_tokens = seen.first + len(seen.mask_TL)
            chosen_SNB = choose_pages(
                q_SNHC,
                seen.k_SLKC,
                mask_NL,
                seen.block_L[num_tokens:],
                num_blocks=num_blocks,
                paged_blocks=config.paged_blocks,
            )
        else:
            assert self._frequencies is not None, "`attend` has kept them"
            chosen_SNB = choose_by_index(
                config, q_SNHC, seen.index_SMKC, position_N, self._frequencies
            )
            chosen_SNB = pad(chosen_SNB, (0, num_blocks - chosen_SNB.shape[-1]))
        chosen_SNL = chosen_SNB.index_select(-1, seen.block_L)
        page_NL = additive(seen.page_TL[position_N - seen.first], mask_NL.dtype)
        return torch.where(chosen_SNL, page_NL, mask_NL)[:, None]

    def _attend_again(
        self, seen: _Seen, q_SNHC: Tensor, k_SNKC: Tensor, v_SNKC: Tensor, position_N: Tensor
    ) -> Tensor:
        first_NL = self._mask(seen, q_SNHC, position_N)
        k_SNKC = pad(k_SNKC, (0, seen.k_SLKC.shape[-1] - k_SNKC.shape[-1]))
        return attention(
            self._with_far(seen, q_SNHC, position_N),
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

    Logits are scaled by the width of values, since keys may have theirs twice. The mask is (T, L),
    or (S, 1, T, L) where sequences differ.
    """
    out_SHTC = scaled_dot_product_attention(
        q_STHC.transpose(1, 2),
        k_SLKC.transpose(1, 2),
        v_SLKC.transpose(1, 2),
        attn_mask=mask,
        is_causal=is_causal,
        scale=v_SLKC.shape[-1] ** -0.5,
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


def _visibility(
    config: MemoryConfig, first: int, length: int, device: torch.device
) -> list[Tensor]:
    """Return which tokens, then which slots of each tier, tokens of a sequence see from `first`."""
    position_T = torch.arange(first, length, device=device)
    ranges = config.summarised((length - 1) // config.block_tokens)
    return [
        sees_exactly(config, position_T, torch.arange(length, device=device)),
        *(
            sees_summarised(config, position_T, tier=tier, num_blocks=end)
            for tier, (_, end) in enumerate(ranges)
        ),
    ]


def additive(sees: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask to add to logits: 0 where a token may look, else -inf."""
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, -torch.inf)
