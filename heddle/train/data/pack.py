"""Rows of exactly so many tokens, filled with documents end to end, without padding.

A document longer than `max_sequence`, or than what is left of a row, is cut into windows: positions
begin anew, but the last token of a window still has the document's next token as its target, so
every token is a target once. A document that makes sense only in one piece is not cut at a row's
end: its beginning fills the row, without targets, and the document comes whole in the next row.

Called by `stream`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from heddle.errors import DataError
from heddle.train.data.cursor import Cursor
from heddle.train.data.document import IGNORED, Document
from heddle.train.data.mix import Mix


class TrainBatch(NamedTuple):
    """T tokens of S sequences, as `model.batch.Packed` has them, and what to learn from them.

    Attributes:
        token_T: int64 ids.
        target_T: int64 id to predict at each token, or -100; never of another document.
        position_T: int64 place in the sequence, from 0.
        bounds_S1: where sequences begin, and T at the end.
        cluster_T: int64 place in `CLUSTERS`, or -1 for none.
        weight_T: float32 weight in the loss.
        part_T: int64 number of the mix's part, in its order.
    """

    token_T: Tensor
    target_T: Tensor
    position_T: Tensor
    bounds_S1: tuple[int, ...]
    cluster_T: Tensor
    weight_T: Tensor
    part_T: Tensor

    def to(self, device: torch.device) -> "TrainBatch":
        """Return the batch on a device; from pinned memory the copy overlaps with computing."""
        moved = {
            name: value.to(device, non_blocking=True)
            for name, value in self._asdict().items()
            if isinstance(value, Tensor)
        }
        return self._replace(**moved)


class Window(NamedTuple):
    """Tokens `start` to `end` of a document, to be learned or only to fill a row."""

    part: str
    document: int
    start: int
    end: int
    is_filling: bool


def pack_whole(documents: Sequence[Document]) -> TrainBatch:
    """Pack documents whole, those of equal length together: one attention serves them."""
    ordered = sorted(documents, key=lambda document: len(document.token_N))
    lengths = [len(document.token_N) for document in ordered]
    token_T, target_T = (
        torch.from_numpy(np.concatenate(parts))
        for parts in zip(*((each.token_N, each.target_N) for each in ordered), strict=True)
    )
    return TrainBatch(
        token_T=token_T,
        target_T=target_T,
        position_T=torch.cat([torch.arange(length) for length in lengths]),
        bounds_S1=(0, *np.cumsum(lengths).tolist()),
        cluster_T=torch.from_numpy(np.repeat([each.cluster for each in ordered], lengths)),
        weight_T=torch.ones(len(token_T)),
        part_T=torch.zeros_like(token_T),
    )


def by_length(batch: TrainBatch) -> TrainBatch:
    """Return a batch with its sequences in order of their lengths, for attention's sake."""
    bounds = batch.bounds_S1
    spans = sorted(pairwise(bounds), key=lambda span: span[1] - span[0])
    order_T = torch.cat([torch.arange(*span) for span in spans])
    parts = {name: value[order_T] for name, value in batch._asdict().items() if name != "bounds_S1"}
    lengths = [end - start for start, end in spans]
    return TrainBatch(**parts, bounds_S1=(0, *np.cumsum(lengths).tolist()))


class Packer:
    """Plans rows and fills them; planning alone moves the cursor."""

    def __init__(self, mix: Mix, *, tokens_per_batch: int, max_sequence: int):
        self._mix = mix
        self._tokens_per_batch = tokens_per_batch
        self._max_sequence = max_sequence
        self._part_numbers = {name: number for number, name in enumerate(mix.parts)}
        self._position_L = np.arange(max_sequence)
        self._last: tuple[tuple[str, int], Document] | None = None

    def plan(self, cursor: Cursor) -> list[Window]:
        """Return the next row's windows and move the cursor behind them.

        Raises DataError for a task's example that is longer than `max_sequence`.
        """
        windows: list[Window] = []
        space = self._tokens_per_batch
        while space:
            if cursor.part is None:
                cursor.part, cursor.document, _ = self._mix.draw(cursor)
                cursor.offset = 0
            name, document, start = cursor.part, cursor.document, cursor.offset
            source = self._mix.parts[name].source
            length = source.length(document)
            fits_a_row = self._check_fits(name, length) if source.whole else False
            is_filling = fits_a_row and length > space
            size = min(length - start, space, self._max_sequence)
            windows.append(Window(name, document, start, start + size, is_filling))
            space -= size
            if not is_filling:
                cursor.offset += size
                cursor.part = name if cursor.offset < length else None
        cursor.num_batches += 1
        return windows

    def fill(self, windows: list[Window]) -> TrainBatch:
        """Read the windows of a plan."""
        size = self._tokens_per_batch
        token_T, target_T, position_T, cluster_T, part_T = (
            np.empty(size, np.int64) for _ in range(5)
        )
        weight_T = np.empty(size, np.float32)
        bounds = [0]
        for name, number, start, end, is_filling in windows:
            document = self._read(name, number)
            here = slice(bounds[-1], bounds[-1] + end - start)
            token_T[here] = document.token_N[start:end]
            target_T[here] = IGNORED if is_filling else document.target_N[start:end]
            position_T[here] = self._position_L[: end - start]
            cluster_T[here] = document.cluster
            weight_T[here] = self._mix.parts[name].loss_weight
            part_T[here] = self._part_numbers[name]
            bounds.append(here.stop)
        tensors = map(
            torch.from_numpy, (token_T, target_T, position_T, cluster_T, weight_T, part_T)
        )
        token, target, position, cluster, weight, part = tensors
        return TrainBatch(token, target, position, tuple(bounds), cluster, weight, part)

    def _check_fits(self, name: str, length: int) -> bool:
        """Whether a document that should be whole can be; chats may not be, tasks must."""
        if length <= self._max_sequence:
            return True
        if self._mix.parts[name].source.num_documents is None:
            raise DataError(
                f"an example of {name!r} is {length} tokens long, and max_sequence is "
                f"{self._max_sequence}: raise it, or lower the task's difficulty"
            )
        return False

    def _read(self, name: str, number: int) -> Document:
        if self._last is None or self._last[0] != (name, number):
            self._last = (name, number), self._mix.parts[name].source.read(number)
        return self._last[1]
