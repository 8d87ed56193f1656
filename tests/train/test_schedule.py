import pytest

from heddle.errors import ConfigError
from heddle.train.schedule import Schedule


def factors(schedule: Schedule, num_steps: int) -> list[float]:
    return [schedule.factor(step, num_steps=num_steps) for step in range(num_steps)]


def test_warm_up_stay_decay_linearly():
    schedule = Schedule(warmup_steps=4, decay_steps=4, decay="linear")
    expected = [0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert factors(schedule, 10) == pytest.approx(expected)


def test_one_minus_square_root_falls_fast_at_first():
    schedule = Schedule(decay_steps=4, floor=0.1)
    expected = [1, 1, 1, 0.1 + 0.9 * 0.5, 0.1 + 0.9 * (1 - 0.5**0.5), 0.1 + 0.9 * (1 - 0.75**0.5)]
    assert factors(schedule, 6) == pytest.approx(expected)


def test_no_phases_means_constant():
    assert factors(Schedule(), 3) == [1, 1, 1]


def test_more_steps_leave_the_steps_before_the_decay_alone():
    schedule = Schedule(warmup_steps=3, decay_steps=5)
    assert factors(schedule, 20)[:15] == factors(schedule, 30)[:15]


@pytest.mark.parametrize("fields", [{"warmup_steps": -1}, {"decay_steps": -1}, {"floor": 1.5}])
def test_impossible_schedules_are_refused(fields):
    with pytest.raises(ConfigError):
        Schedule(**fields)
