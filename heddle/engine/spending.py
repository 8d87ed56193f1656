"""What a sequence's computed tokens took, added up step by step. Kept by `sequence`."""

from collections import Counter
from operator import add
from typing import NamedTuple

import torch

from heddle.engine.request import Compute
from heddle.model.batch import Trace
from heddle.model.config import CLUSTERS, FabricConfig, ModelConfig
from heddle.model.cost import active_params, forward_flops, keys_attended
from heddle.model.router import Choice


class Reading(NamedTuple):
    """How an adaptive network read each token; plain numbers, which few tokens add up soonest.

    `first_channels` are the widths of a token's experts, summed over layers, in its first pass,
    `channels` those of all its loops.
    """

    loops: list[int]
    clusters: list[list[float]]
    first_channels: list[float]
    channels: list[float]


def readings(trace: Trace, config: ModelConfig, sizes: list[int]) -> list[Reading | None]:
    """Split what a step's trace says among sequences of so many tokens; None for dense networks."""
    if trace.loops_T is None and trace.cluster_TG is None:
        return [None] * len(sizes)
    num_tokens = sum(sizes)
    loops = [1] * num_tokens if trace.loops_T is None else trace.loops_T.tolist()
    clusters = [[]] * num_tokens if trace.cluster_TG is None else trace.cluster_TG.tolist()
    first_channels, channels = _channels(trace, config, loops)
    found, end = [], 0
    for size in sizes:
        here = slice(end, end + size)
        found.append(Reading(loops[here], clusters[here], first_channels[here], channels[here]))
        end += size
    return found


class Spending:
    """The sums of one sequence."""

    def __init__(self, config: ModelConfig):
        self._config = config
        self._loops: Counter[int] = Counter()
        self._cluster_sums = [0.0] * len(CLUSTERS)
        self._num_attended = 0
        self._first_channels = 0.0
        self._channels = 0.0
        self._num_guesses = 0

    def add(self, reading: Reading | None, *, first: int, num: int) -> None:
        """Count `num` tokens from position `first` on."""
        self._num_attended += keys_attended(self._config, first=first, num=num)
        if reading is None:
            self._loops[1] += num
            return
        self._loops.update(reading.loops)
        for shares in reading.clusters:
            for cluster, share in enumerate(shares):
                self._cluster_sums[cluster] += share
        self._first_channels += sum(reading.first_channels)
        self._channels += sum(reading.channels)

    def add_guesses(self, *, first: int, num: int) -> None:
        """Count the work on `num` guessed tokens from position `first` on.

        `keep_guess` is for those that come true. Only dense networks guess.
        """
        self._num_attended += keys_attended(self._config, first=first, num=num)
        self._num_guesses += num

    def keep_guess(self) -> None:
        """Count a guess that came true as a token like any other."""
        self._num_guesses -= 1
        self._loops[1] += 1

    def compute(self) -> Compute:
        """Return the sums as a request reports them."""
        config = self._config
        num_tokens = self._loops.total()
        per_token = 1 / max(1, num_tokens)
        again = sum((loops - 1) * num for loops, num in self._loops.items())
        clusters = tuple(share * per_token for share in self._cluster_sums)
        return Compute(
            loops=dict(sorted(self._loops.items())),
            clusters=clusters if config.fabric else (),
            active_params=active_params(
                config,
                expert_channels_per_token=self._first_channels * per_token,
                loops=max(self._loops, default=1),
            ),
            flops=self._flops(num_again=again, channels=self._channels),
            deepest_flops=self._deepest_flops(),
        )

    def _deepest_flops(self) -> float:
        """Return what the same tokens take at most loops, with their first pass's experts."""
        config, num_tokens = self._config, self._loops.total()
        if config.think is None:
            return self._flops(num_again=0, channels=self._channels)
        more = config.think.max_loops - 1
        channels = self._first_channels * (1 + more * config.think.num_layers / config.num_layers)
        return self._flops(num_again=more * num_tokens, channels=channels)

    def _flops(self, *, num_again: int, channels: float) -> float:
        return forward_flops(
            self._config,
            num_tokens=self._loops.total() + self._num_guesses,
            num_attended=self._num_attended,
            num_again=num_again,
            expert_channels=channels,
        )


def _channels(
    trace: Trace, config: ModelConfig, loops: list[int]
) -> tuple[list[float], list[float]]:
    """Return each token's expert channels in its first pass, and in all passes."""
    first = [0.0] * len(loops)
    if config.fabric is None:
        return first, first
    end, block = config.num_layers, 1
    if config.think is not None:
        end, block = config.think.first_layer + config.think.num_layers, config.think.num_layers
    sizes = [1 if c.weight_TE.dim() == 2 else len(c.weight_TE) for c in trace.choices]
    num_again = sum(sizes) - config.num_layers
    again, place = first.copy(), 0  # of the choice at hand's first layer
    for choice, num_layers in zip(trace.choices, sizes, strict=True):
        channels = _widths(choice, config.fabric)
        if end <= place < end + num_again:
            loop = 2 + (place - end) // block
            deep = [token for token, loops_ in enumerate(loops) if loops_ >= loop]
            for token, width in zip(deep, channels, strict=True):
                again[token] += width
        else:
            first = list(map(add, first, channels))
        place += num_layers
    return first, list(map(add, first, again))


def _widths(choice: Choice, fabric: FabricConfig) -> list[float]:
    """Return the widths of each token's experts, added up."""
    if choice.channels_T1 is not None:
        return choice.channels_T1[:, 0].tolist()
    widths_E = torch.tensor([float(expert.width) for expert in fabric.experts])
    return ((choice.weight_TE > 0).float() @ widths_E).tolist()
