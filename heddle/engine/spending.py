"""What a sequence's computed tokens took, added up step by step. Kept by `sequence`."""

from collections import Counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from heddle.engine.request import Compute
from heddle.model.batch import Trace
from heddle.model.config import CLUSTERS, ModelConfig
from heddle.model.cost import active_params, forward_flops, keys_attended


class Reading(NamedTuple):
    """How an adaptive network read each of N tokens.

    `first_channels_N` are the widths of a token's experts, summed over layers, in its first pass,
    `channels_N` those of all its loops.
    """

    loops_N: Tensor
    cluster_NG: Tensor
    first_channels_N: Tensor
    channels_N: Tensor


def readings(trace: Trace, config: ModelConfig, sizes: list[int]) -> list[Reading | None]:
    """Split what a step's trace says among sequences of so many tokens; None for dense networks."""
    if trace.loops_T is None and trace.cluster_TG is None:
        return [None] * len(sizes)
    num_tokens = sum(sizes)
    loops_T = trace.loops_T
    if loops_T is None:
        loops_T = torch.ones(num_tokens, dtype=torch.long)
    cluster_TG = trace.cluster_TG
    if cluster_TG is None:
        cluster_TG = torch.empty(num_tokens, 0)
    parts = (loops_T, cluster_TG, *_channels(trace, config, loops_T))
    return [Reading(*rows) for rows in zip(*(part.split(sizes) for part in parts), strict=True)]


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
        self._loops.update(reading.loops_N.tolist())
        for cluster, share in enumerate(reading.cluster_NG.sum(0).tolist()):
            self._cluster_sums[cluster] += share
        self._first_channels += float(reading.first_channels_N.sum())
        self._channels += float(reading.channels_N.sum())

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


def _channels(trace: Trace, config: ModelConfig, loops_T: Tensor) -> tuple[Tensor, Tensor]:
    """Return each token's expert channels in its first pass, and in all passes.

    By NumPy, which for a few tokens takes a fifth of PyTorch's time.
    """
    first_T, again_T = np.zeros((2, len(loops_T)), dtype=np.float32)
    if config.fabric is not None:
        widths_E = np.array([expert.width for expert in config.fabric.experts], dtype=np.float32)
        end, block = config.num_layers, 1
        if config.think is not None:
            end, block = config.think.first_layer + config.think.num_layers, config.think.num_layers
        chosen = [
            (choice.weight_TE > 0).view(-1, *choice.weight_TE.shape[-2:]).numpy()
            for choice in trace.choices
        ]
        num_again = sum(map(len, chosen)) - config.num_layers
        loops, place = loops_T.numpy(), 0  # of the choice at hand's first layer
        for chosen_LNE in chosen:
            channels_N = chosen_LNE.sum(0) @ widths_E
            if end <= place < end + num_again:
                again_T[loops >= 2 + (place - end) // block] += channels_N
            else:
                first_T += channels_N
            place += len(chosen_LNE)
    return torch.from_numpy(first_T), torch.from_numpy(first_T + again_T)
