"""One answer's text side, token by token: stop strings, characters in halves, reasoning, calls."""

import pytest

from heddle.engine.request import Finished, TokenEvent
from heddle.server.choice import Choice, Piece
from heddle.text.stream_parser import (
    Content,
    Reasoning,
    StreamParser,
    ToolCallArguments,
    ToolCallStart,
)
from heddle.text.tokenizer import Tokenizer
from tests.tiny import tiny_tokenizer

TOKENIZER = Tokenizer(tiny_tokenizer().to_str())
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


def finished(reason: str = "stop", *, num_tokens: int = 9) -> Finished:
    return Finished(
        reason=reason,
        num_prompt_tokens=1,
        num_cached_tokens=0,
        num_new_tokens=num_tokens,
        queue_s=0,
        prefill_s=0,
        decode_s=0,
    )


def drive(
    text: str | list[int], *, stops=(), parser=None, reason="stop"
) -> tuple[Choice, list[Piece]]:
    """Feed a text's tokens one by one; the last piece is the end's."""
    choice = Choice(tokenizer=TOKENIZER, stops=stops, parser=parser)
    pieces = []
    for token_id in TOKENIZER.encode(text) if isinstance(text, str) else text:
        if not choice.is_stopped:
            pieces.append(Piece())
            choice.push(TokenEvent(token_id=token_id, logprob=-1.0), pieces[-1])
    pieces.append(Piece())
    choice.finish(finished(reason), pieces[-1])
    return choice, pieces


def content(pieces: list[Piece]) -> str:
    return "".join(
        part.text for piece in pieces for part in piece.parts if isinstance(part, Content)
    )


@pytest.mark.parametrize("text", ["The heddle lifts the warp.", "東京 – Ça va?", "a\n\n\tb", ""])
def test_text_comes_out_as_it_went_in(text):
    choice, pieces = drive(text, reason="length")
    assert content(pieces) == text and choice.finish_reason == "length"
    assert "\ufffd" not in content(pieces)
    num_tokens = sum(len(piece.tokens) for piece in pieces)
    assert num_tokens == len(TOKENIZER.encode(text))


def test_half_a_character_at_the_end_is_shown_as_such():
    ids = TOKENIZER.encode("東")
    assert len(ids) > 1
    _, pieces = drive(ids[:-1])
    assert content(pieces) == "\ufffd"


@pytest.mark.parametrize("stop", ["lifts", " ", "le l", "."])
def test_nothing_of_a_stop_string_is_let_out(stop):
    text = "The heddle lifts the warp."
    choice, pieces = drive(text, stops=(stop, "never"))
    kept = text[: text.index(stop)]
    assert content(pieces) == kept and choice.finish_reason == "stop" and choice.is_stopped
    tokens = [token.token_id for piece in pieces for token in piece.tokens]
    assert kept.startswith(TOKENIZER.decode(tokens[:-1]))
    assert TOKENIZER.decode(tokens).startswith(kept)


def test_what_only_began_like_a_stop_string_comes_out_at_the_end():
    choice, pieces = drive("Then END", stops=("ENDING",), reason="length")
    assert content(pieces) == "Then END" and choice.finish_reason == "length"


def test_reasoning_and_calls_are_parts():
    parser = StreamParser(tools=True, thinking=True)
    choice, pieces = drive(f"<think>hm, 1</think>So: {CALL}", parser=parser)
    whole = Piece()
    for piece in pieces:
        whole.add(piece.parts)
    reasoning, text, start, arguments = whole.parts
    assert reasoning == Reasoning("hm, 1") and text == Content("So:")
    assert isinstance(start, ToolCallStart) and start.name == "add"
    assert arguments == ToolCallArguments(0, '{"a": 1}')
    assert choice.finish_reason == "tool_calls" and choice.num_reasoning_tokens > 0


def test_call_cut_off_by_the_limit_is_a_length():
    parser = StreamParser(tools=True, thinking=False)
    choice, _ = drive(CALL[:-20], parser=parser, reason="length")
    assert choice.finish_reason == "length"
