import pytest
from hypothesis import given
from hypothesis import strategies as st

from heddle.errors import RequestError
from heddle.text.stops import StopScanner

pieces_of_ab = st.lists(st.text("ab", max_size=4), max_size=8)
stops_of_ab = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


@given(pieces_of_ab, stops_of_ab)
def test_the_cut_does_not_depend_on_the_pieces(pieces, stops):
    text = "".join(pieces)
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    expected, stopped = text, None
    if ends:
        stopped = max((stop for stop in stops if text[: ends[0]].endswith(stop)), key=len)
        expected = text[: ends[0] - len(stopped)]
    scanner = StopScanner(stops)
    assert "".join(map(scanner.push, pieces)) + scanner.flush() == expected
    assert scanner.stopped == stopped


@given(pieces_of_ab, stops_of_ab)
def test_no_more_is_held_than_may_begin_a_stop(pieces, stops):
    scanner = StopScanner(stops)
    released = "".join(map(scanner.push, pieces))
    held = "".join(pieces)[len(released) :]
    assert scanner.stopped or not held or any(stop.startswith(held) for stop in stops)


def test_nothing_follows_the_stop():
    scanner = StopScanner(["END"])
    assert [scanner.push(piece) for piece in ("one E", "ND two", "three")] == ["one ", "", ""]
    assert scanner.flush() == ""


def test_an_empty_stop_is_refused():
    with pytest.raises(RequestError, match="empty"):
        StopScanner([""])
