"""Token ids to text while they are being generated."""

import codecs

from heddle.text.tokenizer import Tokenizer


class Detokenizer:
    """Turns one sequence's ids into text piece by piece; a piece never ends inside a character.

    The pieces joined are the text of the bytes of all tokens, so a word's leading space is never
    lost. Control tokens are left out unless `skip_special` is false.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True):
        self._tokenizer = tokenizer
        self._skipped: frozenset[int] = tokenizer.control_ids if skip_special else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """Return the text that this token completes, often none."""
        if token_id in self._skipped:
            return ""
        return self._utf8.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """Return what is left at the end: U+FFFD if the last character is incomplete."""
        return self._utf8.decode(b"", final=True)
