"""Which tokens of a batch can attend in one call: those of equally long sequences side by side.

Called by `memory`.
"""

from bisect import bisect_left
from itertools import groupby, pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Group(NamedTuple):
    """Neighbouring sequences at rows `start` to `end`: of each the tokens `first` to `until`.

    `past_P` are the rows in the whole batch of the tokens before these, sequence by sequence.
    """

    start: int
    end: int
    first: int
    until: int
    past_P: Tensor

    def of(self, x: Tensor) -> Tensor:
        """Return the group's rows as (sequences, tokens, ...)."""
        return x[self.start : self.end].unflatten(0, (-1, self.until - self.first))


class _Span(NamedTuple):
    """Rows `start` to `end`, a sequence's from its token `first` on.

    Its first token is row `origin` of the whole batch.
    """

    start: int
    end: int
    first: int
    origin: int

    @property
    def until(self) -> int:
        return self.first + self.end - self.start


def groups(bounds_S1: tuple[int, ...], rows: Tensor | None) -> list[Group]:
    """Return the groups of all rows of a batch's sequences, or of some, which stand in order.

    Those of one sequence are neighbours.
    """
    found = []
    for (first, until), members in groupby(_spans(bounds_S1, rows), lambda s: (s.first, s.until)):
        spans = list(members)
        past = [row for span in spans for row in range(span.origin, span.origin + first)]
        past_P = torch.tensor(past, dtype=torch.long, device=None if rows is None else rows.device)
        found.append(Group(spans[0].start, spans[-1].end, first, until, past_P))
    return found


def _spans(bounds_S1: tuple[int, ...], rows: Tensor | None) -> list[_Span]:
    if rows is None:
        return [_Span(start, end, 0, start) for start, end in pairwise(bounds_S1)]
    spans, numbers = [], rows.tolist()
    for origin, end in pairwise(bounds_S1):
        low, high = bisect_left(numbers, origin), bisect_left(numbers, end)
        if low < high:
            spans.append(_Span(low, high, numbers[low] - origin, origin))
    return spans
