"""The default model read through slots that nobody trained: how much of its recall is left.

    python -m recipes.experiments.memory_base --write

A seed is four passkeys of each length. The model's weights are its base's: what `heddle upcycle`
adds changes nothing at one loop, and its poolers begin as plain means.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from heddle.config import DEFAULT_MODEL
from heddle.evals.stats import share
from heddle.model.batch import pack
from heddle.model.config import MemoryConfig, Tier
from heddle.model.memory import WholeSequences
from heddle.model.transformer import Transformer
from heddle.tasks.recall import PASSKEY
from heddle.tasks.task import Example
from heddle.text.tokenizer import Tokenizer
from heddle.train.chart import Lines
from heddle.train.initial import first_network
from heddle.weights.checkpoint import open_checkpoint
from heddle.weights.hub import resolve
from recipes.experiments.experiment import Experiment, Figures, Found, Table, run

# A window of 128 tokens, then four blocks of 64 with a slot for 4 tokens, then a slot for 16.
SLOTS = MemoryConfig(window_blocks=2, tiers=(Tier(4, 4), Tier(16, None)))
READINGS: dict[str, MemoryConfig | None] = {
    "full attention": None,
    "mean-pooled slots": SLOTS,
    "mean-pooled slots and 2 pages": replace(SLOTS, paged_blocks=2),
    "mean-pooled slots and 4 pages": replace(SLOTS, paged_blocks=4),
}
WORDS = {"short": 320, "long": 700}  # between key and question: about 500 and 1,000 tokens in all
NUM_PASSKEYS = 4


def trial(words: int, seed: int, full: bool, folder: Path) -> Figures:
    """Ask the default model for some passkeys, more of them in the full form."""
    opened = open_checkpoint(resolve(DEFAULT_MODEL))
    model = first_network(replace(opened.config, memory=SLOTS), opened, seed=0).eval()
    num = NUM_PASSKEYS * (10 if full else 1)
    examples = [
        PASSKEY.example("test", index, difficulty=words)
        for index in range(seed * num, (seed + 1) * num)
    ]
    return recall(model, Tokenizer(opened.tokenizer_json), examples, READINGS)


@torch.inference_mode()
def recall(
    model: Transformer,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    readings: Mapping[str, MemoryConfig | None],
) -> Figures:
    """Return how many digits, and how many whole keys, greedy decoding finds by reading."""
    digits, keys = dict.fromkeys(readings, 0), dict.fromkeys(readings, 0)
    num_tokens = num_digits = 0
    for example in examples:
        prompt = tokenizer.encode(f"{example.prompt}The passkey is ")
        answer = tokenizer.encode(example.answer)
        num_tokens, num_digits = num_tokens + len(prompt), num_digits + len(answer)
        packed = pack([prompt + answer[:-1]])
        wanted_N = torch.arange(len(answer)) + len(prompt) - 1
        packed = packed._replace(output_N=wanted_N)
        for name, memory in readings.items():
            out = model(packed, WholeSequences(packed.bounds_S1, config=memory))
            is_right_N = out.logits_NV.argmax(-1) == torch.tensor(answer)
            digits[name] += int(is_right_N.sum())
            keys[name] += bool(is_right_N.all())
    return {
        "digits": digits,
        "keys": keys,
        "asked": {"digits": num_digits, "keys": len(examples), "tokens": num_tokens},
    }


def tables(found: Found) -> list[Table]:
    """Return what stands on the page."""
    rows = []
    for arm in found:
        for name in READINGS:
            cells = []
            for what in ("keys", "digits"):
                right, num = _total(found, arm, what, name), _total(found, arm, "asked", what)
                value, low, high, _ = share(right, num)
                cells += [f"{right} of {num}", f"{value:.0%} ({low:.0%} to {high:.0%})"]
            rows.append([f"{_mean_tokens(found, arm):,.0f}", name, *cells])
    columns = ["tokens", "read through", "keys found", "share", "digits found", "share"]
    return [Table("Passkeys that the default model finds", columns, rows)]


def panels(found: Found) -> list[Lines]:
    """Return what the picture shows."""
    lines = {}
    for name in READINGS:
        lines[name] = [
            (
                _mean_tokens(found, arm),
                _total(found, arm, "digits", name) / _total(found, arm, "asked", "digits"),
            )
            for arm in found
        ]
    return [
        Lines(
            title="Digits found",
            x_label="tokens",
            y_label="digits of passkeys found",
            lines=lines,
            is_log_x=True,
            is_share=True,
        )
    ]


def _total(found: Found, arm: str, what: str, name: str) -> int:
    return sum(figures[what][name] for figures in found[arm].values())


def _mean_tokens(found: Found, arm: str) -> float:
    return _total(found, arm, "asked", "tokens") / _total(found, arm, "asked", "keys")


EXPERIMENT = Experiment(
    name="memory_base",
    title="The default model's recall through slots",
    arms={name: partial(trial, words) for name, words in WORDS.items()},
    tables=tables,
    panels=panels,
)

if __name__ == "__main__":
    run(EXPERIMENT)
