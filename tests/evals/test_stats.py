import math

import pytest

from heddle.errors import ConfigError
from heddle.evals.stats import difference, mean, ratio, share


def test_wilsons_interval():
    """10 of 20: Newcombe 1998, Statistics in Medicine 17, gives such bounds for method 3."""
    found = share(10, 20)
    assert found.value == 0.5
    assert (found.low, found.high) == pytest.approx((0.2993, 0.7007), abs=1e-4)
    # Newcombe's table I: 81 of 263 and 0 of 20.
    assert share(81, 263)[1:3] == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert share(0, 20)[1:3] == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert share(20, 20).high == 1.0


def test_a_mean_of_three_seeds():
    found = mean([1.0, 2.0, 3.0])
    assert found.value == 2.0
    assert found.high - 2.0 == pytest.approx(4.303 / math.sqrt(3), rel=1e-6)
    assert mean([5.0]).low == -math.inf
    assert mean([4.0] * 100).high == 4.0


def test_differences_are_taken_in_pairs():
    found = difference([1.0, 12.0, 103.0], [0.0, 11.0, 102.0])
    assert found[:3] == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="shorter"):
        difference([1.0], [])


@pytest.mark.parametrize("right, n", [(1, 0), (-1, 3), (4, 3)])
def test_impossible_shares(right, n):
    with pytest.raises(ConfigError):
        share(right, n)


def test_a_ratio_of_equal_weights_is_a_mean():
    values = [1.0, 4.0, 2.0, 7.0]
    assert ratio([2 * value for value in values], [2.0] * 4) == pytest.approx(mean(values))


def test_a_ratios_interval():
    """By hand: R = 11/10, residuals -0.1, 0.7, -0.6 of mean weight 10/3."""
    found = ratio([1.0, 4.0, 6.0], [1.0, 3.0, 6.0])
    assert found.value == pytest.approx(1.1)
    deviation = math.sqrt((0.1**2 + 0.7**2 + 0.6**2) / 2)
    half = 4.303 * deviation / (10 / 3) / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((1.1 - half, 1.1 + half))
