"""What one further loop of the thinking block takes, beside the block's first pass.

`heddle bench loop` runs it in this process. When a token comes to the block, its weights come from
memory, since what lies behind and before it has been read in between; in a further loop they may
still be in the processor's cache.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import nn

from heddle.bench.environment import describe_environment
from heddle.bench.measure import percentile, prompt_ids
from heddle.bench.report import NO_PEER, Json
from heddle.engine.config import EngineConfig
from heddle.engine.load import chosen_kernels, load_model
from heddle.engine.native import has_native_layers
from heddle.engine.paged_memory import LaterLoops, PagedMemory, Segment
from heddle.engine.pages import Pages, page_tokens
from heddle.errors import ConfigError
from heddle.model.batch import Depth, Packed
from heddle.model.transformer import Transformer
from heddle.weights.checkpoint import open_checkpoint

NUM_PROMPT_TOKENS = 64
TOKENS_A_ROUND = 16
MAX_LOOPS = 4


class Passes(NamedTuple):
    """Seconds of a token's first pass of the block, and of a further loop with all it takes."""

    first_s: float
    again_s: float


class Decoding:
    """One sequence that is decoded without an engine, at a fixed depth."""

    def __init__(
        self, model: Transformer, *, num_tokens: int, num_loops: int, config: EngineConfig
    ):
        self._model, self._num_loops = model, num_loops
        is_native, size = has_native_layers(model), page_tokens(model.config, config)
        self._pages = Pages(
            model.config,
            num_pages=-(-num_tokens // size),
            page_tokens=size,
            dtype=torch.bfloat16 if is_native else torch.float32,
            is_native=is_native,
        )
        self._page_numbers = list(range(-(-num_tokens // size)))
        self._later, self._num_past = LaterLoops(), 0

    @torch.inference_mode()
    def read(self, tokens: list[int]) -> Passes:
        """Bring the sequence's next tokens through the network."""
        first, end = self._num_past, self._num_past + len(tokens)
        loops_T = torch.full((len(tokens),), self._num_loops)
        packed = Packed(
            token_T=torch.tensor(tokens),
            position_T=torch.arange(first, end),
            bounds_S1=(0, len(tokens)),
            output_N=torch.tensor([len(tokens) - 1]),
            depth=Depth(loops_T, torch.zeros_like(loops_T, dtype=torch.bool)),
        )
        segment = Segment(0, len(tokens), first, self._page_numbers, self._later)
        with _timed(self._model.layers) as passes, _timed(self._model.think) as thought:
            self._model(packed, PagedMemory(self._pages, [segment]))
        self._num_past = end
        _, first, *_ = passes  # of layers before the block and of the block's first pass
        again_s = thought[0].end - first.end
        return Passes(first.end - first.begin, again_s / (self._num_loops - 1))


def measure_loop(
    model_path: Path, *, threads: int, num_rounds: int, on_round: Callable[[str], None]
) -> Json:
    """Decode token by token and return what a further loop takes, and its share of the first pass.

    Raises ConfigError for a network that has none.
    """
    checkpoint = open_checkpoint(model_path)
    think = checkpoint.config.think
    if think is None or think.max_loops == 1:
        raise ConfigError(f"{model_path} never loops: measure one that `heddle upcycle` made")
    torch.set_num_threads(threads)
    config = EngineConfig(threads=threads)
    model = load_model(
        checkpoint,
        dtype="float32",
        kernels=chosen_kernels(config),
        page_tokens=page_tokens(checkpoint.config, config),
    )
    num_tokens = NUM_PROMPT_TOKENS + (num_rounds + 1) * TOKENS_A_ROUND
    num_loops = min(MAX_LOOPS, think.max_loops)
    decoding = Decoding(model, num_tokens=num_tokens, num_loops=num_loops, config=config)
    tokens = prompt_ids(checkpoint.config.vocab_size, num_tokens, seed="loop")
    decoding.read(tokens[:NUM_PROMPT_TOKENS])
    rounds: list[Passes] = []
    for start in range(NUM_PROMPT_TOKENS, num_tokens, TOKENS_A_ROUND):
        found = [decoding.read([token]) for token in tokens[start : start + TOKENS_A_ROUND]]
        rounds.append(Passes(*map(median, zip(*found, strict=True))))
        if len(rounds) > 1:  # the first one warms up
            on_round(f"{rounds[-1].again_s / rounds[-1].first_s:.2f} of the first pass")
    again_ms = [each.again_s * 1e3 for each in rounds[1:]]
    shares = [each.again_s / each.first_s for each in rounds[1:]]
    return {
        "name": "loop",
        "unit": "ms",
        "ours": round(median(again_ms), 3),
        "ours_low": round(percentile(again_ms, 25), 3),
        "ours_high": round(percentile(again_ms, 75), 3),
        **NO_PEER,
        "first_pass_ms": round(median(each.first_s for each in rounds[1:]) * 1e3, 3),
        "share_of_first_pass": round(median(shares), 3),
        "share_low": round(percentile(shares, 25), 3),
        "share_high": round(percentile(shares, 75), 3),
        "layers": think.num_layers,
        "rounds": num_rounds,
        "threads": threads,
        "model": model_path.name,
        "environment": describe_environment(),
    }


class _Call(NamedTuple):
    begin: float
    end: float


@contextmanager
def _timed(module: nn.Module | None) -> Iterator[list[_Call]]:
    """Note when each call of a module begins and ends."""
    assert module is not None
    starts: list[float] = []
    calls: list[_Call] = []

    def begin(*_: object) -> None:
        starts.append(time.perf_counter())

    def end(*_: object) -> None:
        calls.append(_Call(starts.pop(), time.perf_counter()))

    hooks = (module.register_forward_pre_hook(begin), module.register_forward_hook(end))
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
