"""The serving form of `model.Memory`: one step's view of `Pages`.

Says for a packed step where each token is stored and what each sequence attends to.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from heddle.engine.pages import Pages
from heddle.kernels.cache import OwnPage
from heddle.kernels.cpu import Span, Spans, Tokens
from heddle.model.memory import additive, attention, with_own_block
from heddle.model.paging import choose_by_index, choose_pages
from heddle.model.rope import Angles, moved
from heddle.model.slots import Pooler


class Own(NamedTuple):
    """Positions, keys and values of the tokens that went as deep as one of the later loops."""

    position_N: Tensor
    k_NKC: Tensor
    v_NKC: Tensor


class LaterLoops:
    """A sequence's keys and values of loops after the first, in its current block.

    Native layers keep a page for each loop, PyTorch's tensors for each layer and loop.
    """

    def __init__(self):
        self._kept: dict[tuple[int, int], Own] = {}
        self._pages: dict[int, OwnPage] = {}

    def page(self, loop: int, new_page: Callable[[], OwnPage]) -> OwnPage:
        """Return a loop's page."""
        if loop not in self._pages:
            self._pages[loop] = new_page()
        return self._pages[loop]

    def add(self, layer: int, loop: int, new: Own) -> Own:
        """Keep what is new, and return it behind what there was."""
        old = self._kept.get((layer, loop))
        if old is not None:
            new = Own(*map(torch.cat, zip(old, new, strict=True)))
        self._kept[layer, loop] = new
        return new

    def move_last(self, pages: Pages, page: int) -> None:
        """Put each token's last loop into the cache's page of the block, and forget all loops."""
        size = pages.page_tokens
        for _, own in sorted(self._pages.items()):  # a later one in the place of those before it
            for number, layer in enumerate(pages.think_layers):
                pages.native[layer].take(page, own, number, block_tokens=size)
        for layer, loop in sorted(self._kept):
            own = self._kept[layer, loop]
            place_N = page * size + own.position_N % size
            pages.k_LKC[layer][place_N], pages.v_LKC[layer][place_N] = own.k_NKC, own.v_NKC
        self._kept, self._pages = {}, {}


class Segment(NamedTuple):
    """One sequence's rows of a step, which attend to `num_past` tokens and to themselves.

    `pages` hold all of them, in order.
    """

    start: int
    end: int
    num_past: int
    pages: list[int]
    later: LaterLoops


class _Run(NamedTuple):
    """Neighbouring rows of a segment that look at the same tokens and slots.

    `places` are the cache's places of the L tokens read exactly, a slice when pages are neighbours,
    and `position_L` theirs in the sequence; `first` is that of the run's first row. `num_old`
    blocks are not read exactly unless they are paged; `slot_pages` are those with slots to see, by
    tier, and `block_M` the blocks of their M slots.
    """

    segment: Segment
    start: int
    end: int
    first: int
    places: slice | Tensor
    position_L: Tensor
    num_old: int
    slot_pages: list[Tensor]
    block_M: Tensor


class PagedMemory:
    """Stores this step's keys and values and attends over the cache."""

    def __init__(self, pages: Pages, segments: list[Segment]):
        self.pages = pages
        self.segments = segments
        self._tokens: Tokens | None = None
        size, positions, places = pages.page_tokens, [], []
        for segment in segments:  # in Python, which for a few tokens is sooner done than PyTorch
            new = range(segment.num_past, segment.num_past + segment.end - segment.start)
            positions += new
            places += [segment.pages[at // size] * size + at % size for at in new]
        self.position_T, self.place_T = torch.tensor([positions, places])
        self._frequencies: Tensor | None = None

    @cached_property
    def _grown_old(self) -> tuple[Tensor, Tensor]:
        """The pages that rows of this step are the first to see through slots, and their blocks."""
        memory, pages, blocks = self.pages.memory, [], []
        assert memory is not None, "only networks with a memory have poolers"
        for segment in self.segments:
            end = segment.num_past + segment.end - segment.start
            begun = [-(-place // memory.block_tokens) for place in (segment.num_past, end)]
            old = range(*(max(0, block - memory.window_blocks) for block in begun))
            blocks += old
            pages += segment.pages[old.start : old.stop]
        return torch.tensor(pages, dtype=torch.long), torch.tensor(blocks, dtype=torch.long)

    @cached_property
    def _runs(self) -> list[_Run]:
        return [run for segment in self.segments for run in self._split(segment)]

    @cached_property
    def _causal(self) -> list[Tensor | None]:
        return [_causal(run) for run in self._runs]

    @cached_property
    def _pages_of(self) -> list[Tensor]:
        return [torch.tensor(segment.pages) for segment in self.segments]

    def tokens(self, angles: Angles) -> Tokens:
        """Return the step's tokens as native layers take them, the same object for all of them."""
        if self._tokens is None or self._tokens.cos_TC is not angles.cos_T1C:
            self._tokens = Tokens(
                cos_TC=angles.cos_T1C,
                sin_TC=angles.sin_T1C,
                position_T=self.position_T,
                place_T=self.place_T,
                spans=self.spans,
                page_tokens=self.pages.page_tokens,
            )
        return self._tokens

    @cached_property
    def spans(self) -> Spans:
        """The step's sequences as native calls take them."""
        return Spans(
            [
                Span(segment.start, segment.end, page_P)
                for segment, page_P in zip(self.segments, self._pages_of, strict=True)
            ]
        )

    def tokens_again(self, angles: Angles, loop: int, rows: Tensor | None) -> Tokens:
        """Return those of the tokens at `rows`, None for all, in a later loop."""
        cuts = [(segment.start, segment.end) for segment in self.segments]
        if rows is not None:
            cuts, angles = _cuts(rows, self.segments), angles.rows(rows)
        size, found = self.pages.page_tokens, []
        for segment, page_P, (low, high) in zip(self.segments, self._pages_of, cuts, strict=True):
            if low < high:
                own = segment.later.page(loop, self.pages.own_page)
                found.append(Span(low, high, page_P, own, segment.num_past // size))
        return Tokens(
            cos_TC=angles.cos_T1C,
            sin_TC=angles.sin_T1C,
            position_T=self.position_T if rows is None else self.position_T[rows],
            place_T=None,
            spans=Spans(found),
            page_tokens=size,
            block_tokens=size,
        )

    def attend(
        self, layer: int, q_THC: Tensor, k_TKC: Tensor, v_TKC: Tensor, pooler: Pooler | None = None
    ) -> Tensor:
        """See `model.memory.Memory.attend`."""
        self.pages.k_LKC[layer][self.place_T] = k_TKC
        self.pages.v_LKC[layer][self.place_T] = v_TKC
        if pooler is not None:
            self._frequencies = pooler.frequencies
            if len(self._grown_old[0]):
                self._summarise(layer, pooler)
        out_THC = torch.empty_like(q_THC)
        for run, causal_TL in zip(self._runs, self._causal, strict=True):
            q_NHC = q_THC[run.start : run.end]
            if run.num_old:
                position_N = torch.arange(run.end - run.start) + run.first
                k_LKC, v_LKC, mask_NL = self._read_slots(layer, run, q_NHC, position_N)
            else:
                k_LKC, v_LKC = self._read(layer, run.places)
                mask_NL = causal_TL
            out_THC[run.start : run.end] = attention(
                q_NHC[None],
                k_LKC[None],
                v_LKC[None],
                mask=mask_NL,
                is_causal=mask_NL is None and run.first == 0,
            )[0]
        return out_THC

    def attend_again(
        self, layer: int, q_NHC: Tensor, k_NKC: Tensor, v_NKC: Tensor, *, loop: int, rows: Tensor
    ) -> Tensor:
        """See `model.memory.Memory.attend_again`."""
        out_NHC = torch.empty_like(q_NHC)
        own: dict[int, Own] = {}
        for segment, (low, high) in zip(self.segments, _cuts(rows, self.segments), strict=True):
            if low < high:
                position_N = rows[low:high] - segment.start + segment.num_past
                new = Own(position_N, k_NKC[low:high], v_NKC[low:high])
                own[segment.start] = segment.later.add(layer, loop, new)
        for run, (low, high) in zip(self._runs, _cuts(rows, self._runs), strict=True):
            if low == high:
                continue
            mine = own[run.segment.start]
            position_N = rows[low:high] - run.start + run.first
            if run.num_old:
                k_LKC, v_LKC, first_NL = self._read_slots(layer, run, q_NHC[low:high], position_N)
            else:
                k_LKC, v_LKC = self._read(layer, run.places)
                first_NL = run.position_L <= position_N[:, None]
            out_NHC[low:high] = attention(
                q_NHC[None, low:high],
                torch.cat([k_LKC, mine.k_NKC])[None],
                torch.cat([v_LKC, mine.v_NKC])[None],
                mask=with_own_block(first_NL, position_N, mine.position_N, self.pages.page_tokens),
            )[0]
        return out_NHC

    def part(self, rows: Tensor) -> "PagedMemory":
        """See `model.memory.Memory.part`."""
        segments = []
        for segment, (low, high) in zip(self.segments, _cuts(rows, self.segments), strict=True):
            if low < high:
                num_past = segment.num_past + int(rows[low]) - segment.start
                segments.append(segment._replace(start=low, end=high, num_past=num_past))
        return PagedMemory(self.pages, segments)

    def close_blocks(self) -> None:
        """See `model.memory.Memory.close_blocks`."""
        for segment in self.segments:
            num_blocks, rest = divmod(
                segment.num_past + segment.end - segment.start, self.pages.page_tokens
            )
            if rest == 0:
                segment.later.move_last(self.pages, segment.pages[num_blocks - 1])

    def running_mean(self, x_TJ: Tensor, *, decay: float) -> Tensor:
        """See `model.memory.Memory.running_mean`."""
        means, size = [], self.pages.page_tokens
        for segment in self.segments:
            mean_J = torch.zeros_like(x_TJ[0], dtype=torch.float32)
            if segment.num_past > 0:
                mean_J = self.pages.mean_PJ[segment.pages[(segment.num_past - 1) // size]].float()
            x_NJ = x_TJ[segment.start : segment.end].float()
            for position, x_J in enumerate(x_NJ, segment.num_past):
                # One by one: bits must not depend on how a sequence was cut into steps.
                mean_J = torch.lerp(x_J, mean_J, decay)
                means.append(mean_J)
                self.pages.mean_PJ[segment.pages[position // size]] = mean_J
        return torch.stack(means).to(x_TJ.dtype)

    def _split(self, segment: Segment) -> list[_Run]:
        """Cut a segment where what its rows see through slots changes."""
        memory, first = self.pages.memory, segment.num_past
        end = first + segment.end - segment.start
        if memory is None:
            return [self._run(segment, first, end, near_block=0)]
        runs = []
        while first < end:
            block = max(first // memory.block_tokens, memory.window_blocks - 1)
            until = min(end, (block + 1) * memory.block_tokens)
            near_block = block + 1 - memory.window_blocks
            runs.append(self._run(segment, first, until, near_block=near_block))
            first = until
        return runs

    def _run(self, segment: Segment, first: int, end: int, *, near_block: int) -> _Run:
        """Make the run of positions `first` to `end`, which reads exactly from a block on."""
        memory, size = self.pages.memory, self.pages.page_tokens
        position_L = torch.arange(near_block * size, end)
        slot_pages: list[Tensor] = []
        block_M = torch.empty(0, dtype=torch.long)
        here = segment.pages[near_block : -(-end // size)]
        places: slice | Tensor
        if memory is not None and near_block > 0:
            position_L = torch.cat([torch.arange(memory.sink_tokens), position_L])
            places = self._places(segment.pages, position_L)
            ranges = memory.summarised(near_block + memory.window_blocks - 1)
            slot_pages = [
                torch.tensor(segment.pages[low:high], dtype=torch.long) for low, high in ranges
            ]
            block_M = torch.cat(
                [
                    block_M,
                    *(
                        torch.arange(low, high).repeat_interleave(size // tier.ratio)
                        for tier, (low, high) in zip(memory.tiers, ranges, strict=True)
                    ),
                ]
            )
        elif here == list(range(here[0], here[0] + len(here))):
            places = slice(here[0] * size, here[0] * size + end)
        else:
            places = self._places(segment.pages, position_L)
        offset = segment.start - segment.num_past
        start, end = first + offset, end + offset
        num_old = near_block if memory else 0
        return _Run(segment, start, end, first, places, position_L, num_old, slot_pages, block_M)

    def _places(self, pages: list[int], position_L: Tensor) -> Tensor:
        size = self.pages.page_tokens
        return torch.tensor(pages)[position_L // size] * size + position_L % size

    def _summarise(self, layer: int, pooler: Pooler) -> None:
        """Pool blocks as they grow old: their keys are by then those of each token's last loop."""
        page_B, block_B = self._grown_old
        k_BNKC = self.pages.of(self.pages.k_LKC[layer], page_B)
        v_BNKC = self.pages.of(self.pages.v_LKC[layer], page_B)
        for tier, kept in enumerate(self.pages.slots[layer]):
            for into, value in zip(kept, pooler(k_BNKC, v_BNKC, block_B, tier=tier), strict=True):
                into[page_B] = value
        if self.pages.index_PMKC[layer].numel():
            self.pages.index_PMKC[layer][page_B] = pooler.index(k_BNKC, v_BNKC, block_B)

    def _read(self, layer: int, places: slice | Tensor) -> tuple[Tensor, Tensor]:
        k_LKC, v_LKC = self.pages.k_LKC[layer], self.pages.v_LKC[layer]
        return k_LKC[places], v_LKC[places]

    def _read_slots(
        self, layer: int, run: _Run, q_NHC: Tensor, position_N: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what a run's rows at `position_N` see, and what is added to its logits.

        Keys and values are of what is exact, then of slots, then of pages.
        """
        k_LKC, v_LKC = self._read(layer, run.places)
        k_LKC = self._nearer(k_LKC, run.position_L, run)
        k_parts, v_parts, bias_parts = [k_LKC], [v_LKC], [k_LKC.new_empty(0)]
        for kept, page_B in zip(self.pages.slots[layer], run.slot_pages, strict=True):
            k_parts.append(kept.k_BMKC[page_B].flatten(0, 1))
            v_parts.append(kept.v_BMKC[page_B].flatten(0, 1))
            bias_parts.append(kept.bias_BM[page_B].flatten())
        k_LKC, v_LKC, bias_M = torch.cat(k_parts), torch.cat(v_parts), torch.cat(bias_parts)
        exact_NL = additive(run.position_L <= position_N[:, None], bias_M.dtype)
        mask_NL = torch.cat([exact_NL, bias_M.expand(len(position_N), -1)], dim=1)
        memory = self.pages.memory
        if memory is None or memory.paged_blocks == 0:
            return k_LKC, v_LKC, mask_NL
        chosen_NB = self._choose(layer, run, q_NHC, k_LKC, mask_NL, position_N)
        num_exact = len(run.position_L)
        mask_NL[:, num_exact:].masked_fill_(chosen_NB[:, run.block_M], -torch.inf)
        size, paged_B = self.pages.page_tokens, chosen_NB.any(0).nonzero()[:, 0]
        position_P = (paged_B[:, None] * size + torch.arange(size)).flatten()
        # Sinks are read already.
        sees_NP = chosen_NB[:, position_P // size] & (position_P >= memory.sink_tokens)
        k_PKC, v_PKC = self._read(layer, self._places(run.segment.pages, position_P))
        k_PKC = self._nearer(k_PKC, position_P, run)
        return (
            torch.cat([k_LKC, k_PKC]),
            torch.cat([v_LKC, v_PKC]),
            torch.cat([mask_NL, additive(sees_NP, mask_NL.dtype)], dim=1),
        )

    def _choose(
        self,
        layer: int,
        run: _Run,
        q_NHC: Tensor,
        k_LKC: Tensor,
        mask_NL: Tensor,
        position_N: Tensor,
    ) -> Tensor:
        """Return which blocks a run's rows read exactly; keys are of what is exact, then slots."""
        memory, pages = self.pages.memory, run.segment.pages
        assert memory is not None, "only a memory has old blocks"
        if memory.index_ratio is None:
            [chosen_NB] = choose_pages(
                q_NHC[None],
                k_LKC[None],
                mask_NL,
                run.block_M,
                num_blocks=len(pages),
                paged_blocks=memory.paged_blocks,
            )
            return chosen_NB
        assert self._frequencies is not None, "`attend` has kept them"
        index_MKC = self.pages.index_PMKC[layer][torch.tensor(pages[: run.num_old])].flatten(0, 1)
        [chosen_NB] = choose_by_index(
            memory, q_NHC[None], index_MKC[None], position_N, self._frequencies
        )
        return chosen_NB

    def _nearer(self, k_LKC: Tensor, position_L: Tensor, run: _Run) -> Tensor:
        """Return keys with those of far blocks turned as if they were as near as distances go."""
        memory, size = self.pages.memory, self.pages.page_tokens
        if memory is None or memory.distance_blocks is None:
            return k_LKC
        excess_L = run.first // size - position_L // size - memory.distance_blocks
        if not (excess_L > 0).any():
            return k_LKC
        assert self._frequencies is not None, "`attend` has kept them"
        near_LKC = moved(k_LKC, excess_L.clamp(min=0) * size, self._frequencies)
        return torch.where(excess_L[:, None, None] > 0, near_LKC, k_LKC)


def _causal(run: _Run) -> Tensor | None:
    """Return which tokens each row may read; None where it is all of them, or plain causality."""
    num_rows = run.end - run.start
    if num_rows == 1 or run.first == 0:
        return None
    return run.position_L <= torch.arange(run.first, run.first + num_rows)[:, None]


def _cuts(rows: Tensor, spans: Sequence[Segment] | Sequence[_Run]) -> list[tuple[int, int]]:
    """Return which of `rows` lie in each of neighbouring spans of the batch, as (low, high)."""
    bounds = torch.tensor([*(span.start for span in spans), spans[-1].end])
    return list(pairwise(torch.searchsorted(rows, bounds).tolist()))
