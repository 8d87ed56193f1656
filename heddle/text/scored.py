"""Which tokens of a text are scored, given those before: context and continuation as ids.

Used where likelihoods are asked of an engine directly; `client.http` needs the first rule alone.
The rules are those of EleutherAI's lm-evaluation-harness, so that figures can be compared
(https://github.com/EleutherAI/lm-evaluation-harness, `lm_eval/api/model.py` and `utils.py`).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from heddle.text.tokenizer import Tokenizer


class Scored(NamedTuple):
    """Token ids of which those from place `first` on are scored."""

    ids: tuple[int, ...]
    first: int


def move_spaces(context: str, continuation: str) -> tuple[str, str]:
    """Move white space at a context's end to its continuation, where tokens hold it."""
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def encode_pair(
    tokenizer: Tokenizer, context: str, continuation: str, *, begin: Sequence[int]
) -> Scored:
    """Encode both as one text; what is behind as many tokens as the context has is scored.

    `begin` are ids that every text starts with.
    """
    context, continuation = move_spaces(context, continuation)
    num_context = len(tokenizer.encode(context))
    ids = tokenizer.encode(context + continuation)
    return Scored((*begin, *ids), len(begin) + num_context)


def windows(ids: Sequence[int], *, start_id: int, length: int) -> Iterator[Scored]:
    """Cut a text that nothing precedes so that each of its tokens is scored once.

    The first window follows `start_id`; the last is as full as it can be, for the sake of what its
    tokens see. Each holds at most `length` tokens.
    """
    text = (start_id, *ids)
    done = 1
    while done < len(text):
        end = min(done + length - 1, len(text))
        begin = max(0, end - length)
        yield Scored(text[begin:end], done - begin)
        done = end
