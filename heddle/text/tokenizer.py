"""Text to token ids and back, over Hugging Face's `tokenizers`.

Called by `chat` and by the server. A *control token* is an added token that the tokenizer file
marks as special, such as `<|im_end|>`: it steers the model. Text from outside must never become
one, so `encode` reads them as plain text unless it is told otherwise. Added tokens that are not
special (Qwen's `<think>`, say) are ordinary vocabulary.

Source of the file format: https://huggingface.co/docs/tokenizers/api/tokenizer
"""

import json
import re
from itertools import groupby
from typing import Any

import tokenizers

from heddle.errors import RequestError, WeightsError

_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer:
    """One model's tokenizer; safe to share between threads."""

    def __init__(self, tokenizer_json: str):
        """Read the text of a `tokenizer.json`. Raises WeightsError when it is not one."""
        self.json = tokenizer_json
        self._with_control = _load(tokenizer_json)
        self._plain = _second(self._with_control)
        self._plain.encode_special_tokens = True
        self._is_byte_level = b"ByteLevel" in self._plain.decoder.__getstate__()
        self._token_bytes: dict[int, bytes] = {}
        added: dict[int, tokenizers.AddedToken] = self._plain.get_added_tokens_decoder()
        self._added_ids = frozenset(added)
        self.control_tokens: dict[str, int] = {
            token.content: token_id for token_id, token in added.items() if token.special
        }
        self.control_ids = frozenset(self.control_tokens.values())
        self.size: int = self._plain.get_vocab_size()

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Return the ids of `text`; only with `special` may its words become control tokens.

        Neither adds a begin-of-text token. Raises RequestError when `text` is not valid Unicode.
        """
        tokenizer = self._with_control if special else self._plain
        check_unicode(text)
        # The batch form lets other threads run; `encode` holds the interpreter, maybe for seconds.
        return tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        """Return the text of `ids`, without control tokens if `skip_special`."""
        return self._plain.decode(ids, skip_special_tokens=skip_special)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for, maybe part of a character; empty if unknown."""
        found = self._token_bytes.get(token_id)
        if found is None:
            found = self._token_bytes[token_id] = self._read_token(token_id)
        return found

    def token_text(self, token_id: int) -> str:
        """Return a token as text by itself, with U+FFFD for parts of characters."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def _read_token(self, token_id: int) -> bytes:
        token = self._plain.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self._added_ids:
            return token.encode()
        if self._is_byte_level:
            return bytes(_BYTE_OF_CHARACTER[character] for character in token)
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()


def check_unicode(text: str) -> None:
    """Raise RequestError when `text` holds half of a surrogate pair, as JSON's escapes can."""
    if _SURROGATE.search(text):
        raise RequestError("text holds half of a surrogate pair, which is not valid Unicode")


def _load(tokenizer_json: str) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # `tokenizers` raises nothing narrower
        raise WeightsError(f"the tokenizer cannot be read: {error}") from error
    if tokenizer.decoder is None:
        raise WeightsError(
            "the tokenizer has no decoder: byte-level and SentencePiece BPE files are supported"
        )
    added = tokenizer.get_added_tokens_decoder().values()
    if tokenizer.normalizer is not None and any(
        token.special and token.normalized for token in added
    ):
        return _load(_match_control_tokens_exactly(tokenizer_json))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _second(first: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Return an equal tokenizer over the same vocabulary and merges, which take megabytes."""
    second: Any = tokenizers.Tokenizer(first.model)
    second.normalizer = first.normalizer
    second.pre_tokenizer = first.pre_tokenizer
    second.decoder = first.decoder
    added: dict[int, tokenizers.AddedToken] = first.get_added_tokens_decoder()
    in_order = [token for _, token in sorted(added.items())]
    for is_special, tokens in groupby(in_order, lambda token: token.special):
        add = second.add_special_tokens if is_special else second.add_tokens
        add(list(tokens))
    return second


def _match_control_tokens_exactly(tokenizer_json: str) -> str:
    """Return the file with control tokens that no other text is normalised to."""
    fields = json.loads(tokenizer_json)
    for token in fields["added_tokens"]:
        if token["special"]:
            token["normalized"] = False
    return json.dumps(fields)


def _byte_alphabet() -> dict[str, int]:
    """Return GPT-2's map of printable characters to bytes.

    Source: `bytes_to_unicode`, https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + n): byte for n, byte in enumerate(others)
    }


_BYTE_OF_CHARACTER = _byte_alphabet()
