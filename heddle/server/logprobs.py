"""Log-probabilities of tokens in OpenAI's two shapes."""

from collections.abc import Sequence
from typing import Any

from heddle.engine.request import TokenEvent
from heddle.text.detokenizer import Detokenizer
from heddle.text.tokenizer import Tokenizer

LOWEST = -9999.0  # JSON has no minus infinity; OpenAI reports this


def chat_logprobs(tokens: Sequence[TokenEvent], tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the `logprobs` object of a chat choice."""

    def entry(token_id: int, logprob: float | None) -> dict[str, Any]:
        return {
            "token": tokenizer.token_text(token_id),
            "logprob": _finite(logprob),
            "bytes": list(tokenizer.token_bytes(token_id)),
        }

    content = [
        entry(token.token_id, token.logprob)
        | {"top_logprobs": [entry(*candidate) for candidate in token.top_logprobs]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


class CompletionLogprobs:
    """The `logprobs` object of a plain completion, in pieces with text offsets that run on."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer, skip_special=False)
        self._offset = 0

    def read(self, tokens: Sequence[TokenEvent]) -> dict[str, Any]:
        """Return the object for these tokens."""
        text = self._tokenizer.token_text
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._detokenizer.push(token.token_id))
        return {
            "tokens": [text(token.token_id) for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [self._top(token) for token in tokens],
            "text_offset": offsets,
        }

    def _top(self, token: TokenEvent) -> dict[str, float | None] | None:
        if token.logprob is None:
            return None
        candidates = [*token.top_logprobs, (token.token_id, token.logprob)]
        return {self._tokenizer.token_text(id): _finite(logprob) for id, logprob in candidates}


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LOWEST)
