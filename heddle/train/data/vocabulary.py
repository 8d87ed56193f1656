"""An own byte-level BPE tokenizer, from text alone. Called by recipes before `prepare`."""

from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from heddle.errors import ConfigError

END_TOKEN = "<|endoftext|>"
SPECIAL_TOKENS = (END_TOKEN, "<|im_start|>", "<|im_end|>")
BYTES_ONLY = 256 + len(SPECIAL_TOKENS)  # the smallest vocabulary: a token a byte


def train_tokenizer(texts: Iterable[str], vocab_size: int = BYTES_ONLY) -> str:
    """Return the text of a `tokenizer.json` with at most `vocab_size` entries.

    Every byte is an entry, so any text can be written; `BYTES_ONLY` needs no texts. Raises
    ConfigError for a size that cannot hold the bytes.
    """
    if vocab_size < BYTES_ONLY:
        raise ConfigError(f"vocab_size must be at least {BYTES_ONLY}, not {vocab_size}")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()
