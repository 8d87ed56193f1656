import threading
import time

import pytest

from heddle.train.data.prefetch import prefetch


def running() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "prefetch"]


def test_order_is_kept_and_the_thread_ends():
    assert list(prefetch(iter(range(100)), depth=3)) == list(range(100))
    assert not running()


def test_work_is_done_ahead_but_not_too_far():
    made = []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    ahead = prefetch(items(), depth=2)
    assert next(ahead) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == 4  # the one taken, two ready, one waiting for a place
    ahead.close()
    assert not running()


def test_errors_come_after_the_items_before_them():
    def items():
        yield 1
        raise ValueError("the third shard is corrupt")

    ahead = prefetch(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="third shard"):
        next(ahead)
    assert not running()
