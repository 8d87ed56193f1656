"""Which tokens are scored, against lm-evaluation-harness's rules done by hand."""

import pytest

from heddle.text.scored import Scored, encode_pair, move_spaces, windows
from heddle.text.tokenizer import Tokenizer
from tests.tiny import tiny_tokenizer

TOKENIZER = Tokenizer(tiny_tokenizer().to_str())


@pytest.mark.parametrize(
    ("context", "continuation", "expected"),
    [
        ("The loom", " holds", ("The loom", " holds")),
        ("The loom \n", "holds", ("The loom", " \nholds")),
        ("  ", "holds", ("", "  holds")),
    ],
)
def test_spaces_move_to_what_follows(context, continuation, expected):
    assert move_spaces(context, continuation) == expected


def test_a_pair_is_encoded_as_one_text():
    scored = encode_pair(TOKENIZER, "The loom ", "holds the warp", begin=(1,))
    assert scored.ids == (1, *TOKENIZER.encode("The loom holds the warp"))
    assert TOKENIZER.decode(list(scored.ids[scored.first :])) == " holds the warp"


def test_names_of_control_tokens_are_text():
    scored = encode_pair(TOKENIZER, "a<|im_end|>", " b<|im_end|>", begin=())
    assert not set(scored.ids) & set(TOKENIZER.control_ids)


@pytest.mark.parametrize("num_ids", [1, 3, 4, 5, 7, 8, 9, 30])
def test_windows_score_each_token_once_and_are_full(num_ids):
    ids, length = list(range(100, 100 + num_ids)), 5
    found = list(windows(ids, start_id=0, length=length))
    assert [token for window in found for token in window.ids[window.first :]] == ids
    assert all(1 <= window.first < len(window.ids) <= length for window in found)
    if num_ids >= length:
        assert len(found[-1].ids) == length


def test_windows_as_the_harness_cuts_them():
    """Its make_disjoint_window(get_rolling_token_windows(range(9), 99, 4, 1)), joined."""
    expected = [((99, 0, 1, 2, 3), 1), ((3, 4, 5, 6, 7), 1), ((4, 5, 6, 7, 8), 4)]
    assert list(windows(range(9), start_id=99, length=5)) == [Scored(*each) for each in expected]
