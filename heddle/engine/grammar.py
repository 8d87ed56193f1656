"""Structured output: which tokens a grammar allows next. The grammars themselves are llguidance's.

llguidance (https://github.com/guidance-ai/llguidance) computes a token mask in tens of
microseconds, which matters when the model shares two cores with it.
"""

from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import (
    allocate_token_bitmask,
    apply_token_bitmask_inplace,
    fill_next_token_bitmask,
)
from torch import Tensor

from heddle.errors import EngineError, RequestError


class GrammarCompiler:
    """Compiles grammars for one vocabulary; reading the vocabulary waits for the first grammar."""

    def __init__(self, tokenizer_json: str, *, vocab_size: int, eos_ids: tuple[int, ...]):
        self._tokenizer_json = tokenizer_json
        self._vocab_size = vocab_size
        self._eos_ids = eos_ids
        self._tokenizer: LLTokenizer | None = None

    def check(self, grammar: str) -> None:
        """Raise `RequestError` for a grammar that cannot be compiled."""
        _refuse(LLMatcher.validate_grammar(grammar, self._vocabulary()))

    def constraint(self, grammar: str) -> "Constraint":
        """Start a `grammar` at its first token; raises as `check` does."""
        matcher = LLMatcher(self._vocabulary(), grammar)
        _refuse(matcher.get_error())
        return Constraint(matcher, vocab_size=self._vocab_size)

    def _vocabulary(self) -> LLTokenizer:
        if self._tokenizer is None:
            self._tokenizer = LLTokenizer(
                self._tokenizer_json, n_vocab=self._vocab_size, eos_token=list(self._eos_ids)
            )
        return self._tokenizer


class Constraint:
    """The place of one answer in its grammar."""

    def __init__(self, matcher: LLMatcher, *, vocab_size: int):
        self._matcher = matcher
        self._bitmask = allocate_token_bitmask(1, vocab_size)

    @property
    def is_complete(self) -> bool:
        """Whether nothing but the end of the answer may follow."""
        return self._matcher.is_stopped()

    def mask(self, logits_V: Tensor) -> Tensor:
        """Return the logits with every token that may not come next at minus infinity."""
        fill_next_token_bitmask(self._matcher, self._bitmask)
        self._raise_on_error()
        masked_1V = logits_V[None].clone()
        apply_token_bitmask_inplace(masked_1V.numpy(), self._bitmask)
        return masked_1V[0]

    def accept(self, token_id: int) -> None:
        """Move past a token that `mask` allowed."""
        self._matcher.consume_token(token_id)
        self._raise_on_error()

    def _raise_on_error(self) -> None:
        if self._matcher.is_error():
            raise EngineError(f"the grammar could not be followed: {self._matcher.get_error()}")


def _refuse(problem: str) -> None:
    if problem:
        raise RequestError(
            f"the grammar or JSON schema cannot be used: {problem}", code="invalid_grammar"
        )
