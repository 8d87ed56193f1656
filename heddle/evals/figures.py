"""From answers to figures: a metric with its interval, and the difference of two models in it."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from heddle.evals.records import Record
from heddle.evals.stats import Interval, mean, ratio, share
from heddle.tasks.evaluation import EvalSet


class Summary(NamedTuple):
    """What a model reached in a set.

    `figures` are by metric, the headline's first, `groups` the headline's by part of the set.
    Questions that failed are in none of them. `mean_loops` and `flops`, of a question, are None
    where the model does not tell.
    """

    eval_set: EvalSet
    figures: dict[str, Interval]
    groups: dict[str, Interval]
    num_failed: int
    mean_loops: float | None
    flops: float | None

    @property
    def headline(self) -> Interval:
        """Return the figure to report first."""
        return self.figures[self.eval_set.metric]


def summarise(eval_set: EvalSet, records: Iterable[Record]) -> Summary | None:
    """Return the figures of a set's answers, None if every question failed."""
    every = list(records)
    answered = [record for record in every if record.error is None]
    if not answered:
        return None
    metrics = sorted(answered[0].values, key=lambda metric: metric != eval_set.metric)
    groups: dict[str, list[Record]] = {}
    for record in answered:
        groups.setdefault(record.group, []).append(record)
    num_tokens = sum(record.num_tokens for record in answered)
    num_loops = sum(record.num_loops for record in answered)
    return Summary(
        eval_set,
        figures={metric: figure(metric, answered) for metric in metrics},
        groups={name: figure(eval_set.metric, some) for name, some in groups.items() if name},
        num_failed=len(every) - len(answered),
        mean_loops=num_loops / num_tokens if num_tokens else None,
        flops=sum(record.flops for record in answered) / len(answered) if num_tokens else None,
    )


def figure(metric: str, records: Sequence[Record]) -> Interval:
    """Return a metric over questions: a perplexity, or a mean score from 0 to 1."""
    amounts, weights = zip(*(record.values[metric] for record in records), strict=True)
    if is_perplexity(metric):
        return _exponential(ratio(amounts, weights))
    return share(min(sum(amounts), len(amounts)), len(amounts))


def paired(metric: str, first: dict[str, Record], second: dict[str, Record]) -> Interval | None:
    """Return how much the second model has more, on the questions that both answered.

    Of perplexities it is the quotient. None without such questions.
    """
    pairs = [
        (record.values[metric], second[id].values[metric])
        for id, record in first.items()
        if record.error is None and id in second and second[id].error is None
    ]
    if not pairs:
        return None
    more = [b - a for (a, _), (b, _) in pairs]
    if is_perplexity(metric):
        return _exponential(ratio(more, [weight for (_, weight), _ in pairs]))
    return mean(more)


def is_perplexity(metric: str) -> bool:
    """Whether less is better, and differences are quotients."""
    return metric.endswith("perplexity")


def _exponential(interval: Interval) -> Interval:
    value, low, high = (math.exp(min(bound, 700.0)) for bound in interval[:3])
    return Interval(value, low, math.inf if interval.high == math.inf else high, interval.n)
