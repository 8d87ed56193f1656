from hypothesis import given
from hypothesis import strategies as st

from heddle.text.detokenizer import Detokenizer


@given(st.data(), st.booleans())
def test_pieces_join_to_the_whole(tokenizer, data, skip_special):
    ids = data.draw(st.lists(st.integers(0, tokenizer.size - 1)))
    detokenizer = Detokenizer(tokenizer, skip_special=skip_special)
    pieces = [detokenizer.push(token_id) for token_id in ids]
    whole = "".join(pieces) + detokenizer.flush()
    assert whole == tokenizer.decode(ids, skip_special=skip_special)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_piece_ends_inside_a_character(tokenizer, text):
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(token_id) for token_id in tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert detokenizer.flush() == ""


def test_an_incomplete_last_character_is_marked(tokenizer):
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.push(tokenizer.encode("\N{SNOWMAN}")[0]) == ""
    assert detokenizer.flush() == "\N{REPLACEMENT CHARACTER}"
