"""95% intervals: of a share of right answers, of a mean over few seeds, of a difference.

Used by `heddle eval` and by the experiments in `recipes/experiments`.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

from heddle.errors import ConfigError

_Z = NormalDist().inv_cdf(0.975)
# Student's t at 97.5% for 1 to 30 degrees of freedom
# (NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2).
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


class Interval(NamedTuple):
    """A figure, the bounds of its 95% interval, and the number of observations behind it."""

    value: float
    low: float
    high: float
    n: int


def share(num_right: float, n: int) -> Interval:
    """Return a share and Wilson's score interval (E. B. Wilson 1927), which stays within 0 to 1.

    `num_right` may have a fraction, where answers can be partly right: scores from 0 to 1 vary
    less than right and wrong do, so the interval is then wider than it need be.
    """
    if n < 1 or not 0 <= num_right <= n:
        raise ConfigError(f"a share needs 0 to n right of at least one, not {num_right} of {n}")
    value = num_right / n
    centre = (value + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(value * (1 - value) / n + _Z**2 / (4 * n**2))
    return Interval(value, max(0.0, centre - half), min(1.0, centre + half), n)


def mean(values: Sequence[float]) -> Interval:
    """Return a mean and its t interval; of a single value nothing bounds it."""
    if not values:
        raise ConfigError("a mean needs at least one value")
    if len(values) == 1:
        return Interval(values[0], -math.inf, math.inf, 1)
    degrees = len(values) - 1
    factor = _T[degrees - 1] if degrees <= len(_T) else _Z
    half = factor * stdev(values) / math.sqrt(len(values))
    return Interval(fmean(values), fmean(values) - half, fmean(values) + half, len(values))


def difference(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Return the mean of first minus second, of values that belong together by their place."""
    return mean([a - b for a, b in zip(first, second, strict=True)])


def ratio(amounts: Sequence[float], weights: Sequence[float]) -> Interval:
    """Return the sum of amounts by that of weights and its interval, over pairs of them.

    The ratio estimator's: W. G. Cochran, Sampling Techniques, 1977, section 6.3. With equal weights
    it is `mean`.
    """
    value = sum(amounts) / sum(weights)
    scale = len(weights) / sum(weights)
    off = [
        (amount - value * weight) * scale for amount, weight in zip(amounts, weights, strict=True)
    ]
    _, low, high, n = mean(off)
    return Interval(value, value + low, value + high, n)
