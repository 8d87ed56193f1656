"""Figures of what a student kept, against sums done by hand."""

import pytest

from heddle.train.retention import compared_scores, wilson


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [(0.5, 10, 0.2366, 0.7634), (0.0, 20, 0.0, 0.1611), (0.9, 100, 0.8256, 0.9448)],
)
def test_wilsons_interval(share, n, low, high):
    assert wilson(share, n) == pytest.approx((low, high), abs=1e-4)


def test_retention_is_the_ratio_of_accuracies():
    found = compared_scores([1.0] * 80 + [0.0] * 20, [1.0] * 60 + [0.0] * 40)
    assert found["teacher_accuracy"] == 0.8 and found["student_accuracy"] == 0.6
    assert found["retention"] == pytest.approx(0.75)
    # The examples are the same for both, so that the interval is narrower than for strangers.
    assert 0.65 < found["retention_low"] < 0.70 and 0.80 < found["retention_high"] < 0.86


def test_a_teacher_without_a_right_answer_has_nothing_to_keep():
    found = compared_scores([0.0] * 10, [1.0] * 10)
    assert found["retention"] is None and found["student_accuracy"] == 1.0
