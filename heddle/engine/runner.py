"""One step of the model: pack the planned tokens, run the network, hand back each one's rows."""

from typing import NamedTuple

import torch
from torch import Tensor

from heddle.engine.config import EngineConfig
from heddle.engine.paged_memory import PagedMemory, Pages, Segment
from heddle.engine.scheduler import Work
from heddle.model.batch import Packed
from heddle.model.transformer import Transformer


class Rows(NamedTuple):
    """What the step computed for one piece of work: hidden states and the wanted logits.

    `logits_NV` has a row for every token of a sequence that scores its prompt, else one for the
    last token if that completes what was pending, else none.
    """

    hidden_TD: Tensor
    logits_NV: Tensor


class Runner:
    """The model and its pages."""

    def __init__(self, model: Transformer, config: EngineConfig, *, num_pages: int):
        self._model = model
        self._pages = Pages(
            model.config,
            num_pages=num_pages,
            page_tokens=config.page_tokens,
            dtype=model.embed.weight.dtype,
        )

    @torch.inference_mode()
    def run(self, plan: list[Work]) -> list[Rows]:
        """Run one step over a non-empty plan whose pages are reserved."""
        tokens: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        num_wanted: list[int] = []
        segments: list[Segment] = []
        for sequence, num_tokens in plan:
            first, start = sequence.num_computed, len(tokens)
            tokens += sequence.tokens[first : first + num_tokens]
            positions += range(first, first + num_tokens)
            segments.append(Segment(start, len(tokens), first, sequence.pages))
            if sequence.scores_prompt:
                rows = range(start, len(tokens))
            elif num_tokens == sequence.num_pending:
                rows = range(len(tokens) - 1, len(tokens))
            else:
                rows = range(0)
            wanted += rows
            num_wanted.append(len(rows))
        packed = Packed(
            token_T=torch.tensor(tokens),
            position_T=torch.tensor(positions),
            bounds_S1=(0, *(segment.end for segment in segments)),
            output_N=torch.tensor(wanted, dtype=torch.long),
        )
        out = self._model(packed, PagedMemory(self._pages, segments))
        hidden = out.hidden_TD.split([num_tokens for _, num_tokens in plan])
        logits = out.logits_NV.split(num_wanted)
        return [Rows(*rows) for rows in zip(hidden, logits, strict=True)]
