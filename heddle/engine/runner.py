"""One step of the model: pack the planned tokens, run the network, hand back each one's rows."""

from typing import NamedTuple

import torch
from torch import Tensor

from heddle.engine.config import DTYPES, EngineConfig
from heddle.engine.native import has_native_layers
from heddle.engine.paged_memory import PagedMemory, Segment
from heddle.engine.pages import Pages, page_tokens
from heddle.engine.sequence import Work
from heddle.engine.spending import Reading, readings
from heddle.errors import ConfigError
from heddle.model.batch import Depth, Packed
from heddle.model.config import CLUSTERS
from heddle.model.transformer import Transformer


class Rows(NamedTuple):
    """What the step computed for one piece of work: hidden states and the wanted logits.

    `logits_NV` has a row for every token that predicts one to be scored, else one for the last
    token if that completes what was pending and one for each guess behind it, else none. `reading`
    is an adaptive network's.
    """

    hidden_TD: Tensor
    logits_NV: Tensor
    reading: Reading | None


class Runner:
    """The model and its pages."""

    def __init__(self, model: Transformer, config: EngineConfig, *, num_pages: int):
        self._model = model
        self.pages = Pages(
            model.config,
            num_pages=num_pages,
            page_tokens=page_tokens(model.config, config),
            dtype=_cache_dtype(model, config),
            is_native=has_native_layers(model),
        )

    @torch.inference_mode()
    def run(self, plan: list[Work]) -> list[Rows]:
        """Run one step over a non-empty plan whose pages are reserved."""
        tokens: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        num_wanted: list[int] = []
        segments: list[Segment] = []
        for work in plan:
            sequence, num_tokens, draft = work
            first, start = sequence.num_computed, len(tokens)
            tokens += sequence.tokens[first : first + num_tokens]
            tokens += draft
            positions += range(first, first + work.num_rows)
            segments.append(Segment(start, len(tokens), first, sequence.pages, sequence.later))
            if sequence.scores_prompt:
                unasked = max(0, sequence.request.prompt_logprobs_from - 1 - first)
                rows = range(start + unasked, len(tokens))
            elif num_tokens == sequence.num_pending:
                rows = range(len(tokens) - 1 - len(draft), len(tokens))
            else:
                rows = range(0)
            wanted += rows
            num_wanted.append(len(rows))
        packed = Packed(
            token_T=torch.tensor(tokens),
            position_T=torch.tensor(positions),
            bounds_S1=(0, *(segment.end for segment in segments)),
            output_N=torch.tensor(wanted, dtype=torch.long),
            depth=_depth(plan),
            steer_TG=_steer(plan),
        )
        out = self._model(packed, PagedMemory(self.pages, segments))
        sizes = [work.num_rows for work in plan]
        hidden, logits = out.hidden_TD.split(sizes), out.logits_NV.split(num_wanted)
        read = readings(out.trace, self._model.config, sizes)
        return [Rows(*rows) for rows in zip(hidden, logits, read, strict=True)]


def _cache_dtype(model: Transformer, config: EngineConfig) -> torch.dtype:
    """Return the precision of the cache. Raises ConfigError for one that nobody here reads."""
    is_native = has_native_layers(model)
    if config.cache_dtype == "auto":
        return torch.bfloat16 if is_native else DTYPES[config.dtype]
    if is_native or config.cache_dtype == config.dtype:
        return DTYPES[config.cache_dtype]
    raise ConfigError(
        f"a cache in {config.cache_dtype} needs native kernels and a model in blocks of 4 or 8 "
        f"bits: leave cache_dtype out, or set it to {config.dtype}"
    )


def _depth(plan: list[Work]) -> Depth | None:
    """Return each token's depth as its request asks, None if all are at one loop."""
    asked = [work.sequence.request.thinking for work in plan]
    if all(thinking.max_loops == 1 for thinking in asked):
        return None
    sizes = torch.tensor([work.num_rows for work in plan])
    return Depth(
        torch.tensor([thinking.max_loops for thinking in asked]).repeat_interleave(sizes),
        torch.tensor([thinking.is_automatic for thinking in asked]).repeat_interleave(sizes),
    )


def _steer(plan: list[Work]) -> Tensor | None:
    """Return what is added to each token's choice of clusters, None if nothing is."""
    asked = [work.sequence.request.steer for work in plan]
    if not any(asked):
        return None
    sizes = torch.tensor([work.num_rows for work in plan])
    steer_SG = torch.tensor([steer or (0.0,) * len(CLUSTERS) for steer in asked])
    return steer_SG.repeat_interleave(sizes, dim=0)
