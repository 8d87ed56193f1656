"""A small tokenizer with the control tokens of several families, and the default model's own."""

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Trained

from heddle.text.chat import ChatFormat
from heddle.text.tokenizer import Tokenizer
from heddle.weights.checkpoint import open_checkpoint

CONTROL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
CORPUS = [
    "The loom holds the warp; the heddle lifts it; the shuttle carries the weft.\n\n",
    'system user assistant tool {"name": "add", "arguments": {"a": 17, "b": 25}} 3.50, 99%',
    "Ça va? Grüße, 東京, привет! 🧵",
]


@pytest.fixture(scope="session")
def trained() -> Trained:
    """A byte-level BPE of 600 entries; `<think>` is added but not special, as in Qwen3."""
    tokenizer = Trained(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[
            AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS
        ],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer(trained: Trained) -> Tokenizer:
    return Tokenizer(trained.to_str())


@pytest.fixture(scope="session")
def default_model(default_gguf):
    """The default model's checkpoint; only its tokenizer and template are read."""
    return open_checkpoint(default_gguf)


@pytest.fixture(scope="session")
def default_format(default_model) -> ChatFormat:
    return ChatFormat(
        default_model.chat_template,
        Tokenizer(default_model.tokenizer_json),
        bos_id=default_model.bos_id,
        eos_ids=default_model.eos_ids,
    )
