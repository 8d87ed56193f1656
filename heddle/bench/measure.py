"""What is measured, and what a measurement gives.

`compare.py` fills these in; the names of the measurements are those of `heddle bench NAME`.
"""

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Contender(NamedTuple):
    """Who was measured; the first line that a worker writes."""

    name: str
    version: str
    dtype: str
    vocab_size: int


class Timing(NamedTuple):
    """Greedy continuations, of one stream or of several side by side, as a worker timed them.

    `first_s` runs from the call until each stream has its first token, `rest_s` from there until
    one has its last, in which `num_rest` tokens came. `tokens` are all of them, stream by stream.
    `idle_cpu_s` is the processor time that the worker used between this call and the one before,
    when it should have slept.
    """

    first_s: float
    rest_s: float
    num_rest: int
    tokens: list[int]
    idle_cpu_s: float


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What every round runs, and the number that its timing becomes.

    Each of `num_streams` has a prompt of its own. With `repeat` the prompt is sent twice and the
    second answer counts: it finds the prompt in the prefix cache.
    """

    name: str
    unit: str
    num_prompt_tokens: int
    num_new_tokens: int
    value: Callable[[Timing], float]
    higher_is_better: bool
    repeat: bool = False
    num_streams: int = 1


def streams(name: str, num_streams: int) -> Measurement:
    """Return the measurement of tokens a second of answers that are written side by side."""
    return Measurement(
        name=name,
        unit="tokens/s",
        num_prompt_tokens=64,
        num_new_tokens=97,
        value=lambda timing: timing.num_rest / timing.rest_s,
        higher_is_better=True,
        num_streams=num_streams,
    )


DECODE = streams("decode", 1)
PREFILL = Measurement(
    name="prefill",
    unit="tokens/s",
    num_prompt_tokens=512,
    num_new_tokens=1,
    value=lambda timing: 512 / timing.first_s,
    higher_is_better=True,
)
TTFT = Measurement(
    name="ttft",
    unit="ms",
    num_prompt_tokens=128,
    num_new_tokens=1,
    value=lambda timing: timing.first_s * 1e3,
    higher_is_better=False,
)
TTFT_HIT = Measurement(
    name="ttft_hit",
    unit="ms",
    num_prompt_tokens=128,
    num_new_tokens=1,
    value=lambda timing: timing.first_s * 1e3,
    higher_is_better=False,
    repeat=True,
)

MEASUREMENTS = {"decode": (DECODE,), "prefill": (PREFILL,), "ttft": (TTFT, TTFT_HIT)}


def percentile(values: list[float], percent: int) -> float:
    """Return the value that `percent` of `values` do not exceed, interpolated."""
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


Round = tuple[Timing, ...]  # one for each contender, ours first


class Comparison(NamedTuple):
    """All rounds of one measurement; the first contender is ours, the second, if any, the peer."""

    measurement: Measurement
    contenders: tuple[Contender, ...]
    rounds: tuple[Round, ...]

    def values(self, contender: int) -> list[float]:
        """Return one contender's number for each round."""
        return [self.measurement.value(found[contender]) for found in self.rounds]

    def ratios(self) -> list[float]:
        """Return ours against the peer's for each round; above 1 ours is better."""
        pairs = zip(self.values(0), self.values(1), strict=True)
        if self.measurement.higher_is_better:
            return [ours / peer for ours, peer in pairs]
        return [peer / ours for ours, peer in pairs]

    def share_same_tokens(self) -> float:
        """Return the share of tokens that both chose alike: near 1 if both run the same weights."""
        num_same = num_tokens = 0
        for ours, peer in self.rounds:
            num_same += sum(a == b for a, b in zip(ours.tokens, peer.tokens, strict=True))
            num_tokens += len(ours.tokens)
        return num_same / num_tokens

    def idle_share(self, contender: int) -> float:
        """Return the processor time of one while the other was measured, over that wall time.

        0 is fair: threads that keep spinning when they are idle slow the other one down.
        """
        other = 1 - contender
        used_s = sum(found[contender].idle_cpu_s for found in self.rounds)
        wall_s = sum(found[other].first_s + found[other].rest_s for found in self.rounds)
        return used_s / wall_s


def prompt_ids(vocab_size: int, num_tokens: int, *, seed: str) -> list[int]:
    """Draw a prompt of ordinary token ids; prompts of different seeds have no prefix in common.

    A dense network takes the same time whatever the ids are. Low ids are left out: control tokens
    live there.
    """
    draw = random.Random(seed)
    return [draw.randrange(min(256, vocab_size // 2), vocab_size) for _ in range(num_tokens)]
