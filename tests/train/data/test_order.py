import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.train.data.order import Permutation


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 3000), key=st.text(max_size=5))
def test_every_number_comes_once(size, key):
    items = Permutation(size, key).items(0, size)
    assert sorted(items) == list(range(size))


@given(start=st.integers(0, 900), count=st.integers(0, 100))
def test_parts_agree_with_the_whole(start, count):
    order = Permutation(1000, "key")
    stop = start + count
    assert (order.items(start, stop) == order.items(0, 1000)[start:stop]).all()


def test_it_looks_shuffled():
    items = Permutation(10_000, "key").items(0, 10_000)
    assert abs(np.corrcoef(items, np.arange(10_000))[0, 1]) < 0.05
    assert (np.diff(items) == 1).sum() < 10
    assert (items != Permutation(10_000, "other").items(0, 10_000)).mean() > 0.99


def test_the_order_never_changes():
    """Saved cursors rely on it."""
    assert Permutation(10, "key").items(0, 10).tolist() == [2, 1, 6, 5, 3, 7, 9, 0, 8, 4]


def test_a_huge_list_costs_nothing():
    items = Permutation(10**15, "key").items(10**14, 10**14 + 5)
    assert len(set(items.tolist())) == 5
    assert items.max() < 10**15
