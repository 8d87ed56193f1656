"""Keeps text from outside from becoming control tokens on its way through a chat template.

Called by `chat`. A template mixes its own control tokens with contents into one string, which must
then be encoded as a whole, because merges cross the seams. So before rendering, the first character
of every control token that a content spells out is replaced by a lone surrogate: a code point that
no valid text holds, that templates carry along untouched, and that breaks the token's spelling. In
the rendered string every control token is then the template's own, and the surrogates give the
characters back.

What this leaves to the template's author: not to spell a control token out of a piece of its own
and a piece of content, as in `'<|' + content`. Roles, which some templates do use so, are checked
by `messages`.
"""

import re
from typing import Any

from heddle.text.json_values import is_array, is_object
from heddle.text.tokenizer import Tokenizer, check_unicode

_FIRST_LOW_SURROGATE = 0xDC00
_COVERED = re.compile("[\udc00-\udfff]")


class Shield:
    """The control tokens of one tokenizer, and how to hide them in text that may not use them."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        tokens = sorted(tokenizer.control_tokens, key=len, reverse=True)
        initials = sorted({token[0] for token in tokens})
        self._surrogate = {
            initial: chr(_FIRST_LOW_SURROGATE + n) for n, initial in enumerate(initials)
        }
        self._restore = str.maketrans(
            {surrogate: initial for initial, surrogate in self._surrogate.items()}
        )
        any_token = "|".join(map(re.escape, tokens)) or "(?!)"
        self._token_start = re.compile(f"(?={any_token}).", re.DOTALL)
        self._token = re.compile(f"({any_token})")

    def cover(self, value: Any) -> Any:
        """Return a copy of `value`, JSON-like, in whose strings no control token is spelled out."""
        if isinstance(value, str):
            check_unicode(value)
            return self._token_start.sub(lambda start: self._surrogate[start[0]], value)
        if is_object(value):
            return {self.cover(key): self.cover(item) for key, item in value.items()}
        if is_array(value):
            return [self.cover(item) for item in value]
        return value

    def encode(self, text: str) -> list[int]:
        """Return the ids of rendered text: control tokens where spelled out, text where covered."""
        if not _COVERED.search(text):
            return self._tokenizer.encode(text, special=True)
        ids: list[int] = []
        for piece in self._token.split(text):
            control_id = self._tokenizer.control_tokens.get(piece)
            if control_id is None:
                ids += self._tokenizer.encode(piece.translate(self._restore))
            else:
                ids.append(control_id)
        return ids
