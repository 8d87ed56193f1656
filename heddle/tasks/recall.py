"""Finding again, after a distance, what was said before: a passkey in prose, a value by its key.

Passkey retrieval is of Mohtashami and Jaggi 2023 (arXiv:2305.16300); recall among pairs follows
Arora et al. 2023 (arXiv:2312.04927). The filling text is made here, of our own words.
"""

from random import Random
from string import ascii_lowercase

from heddle.tasks.task import Example, Task, held_out

_ADJECTIVES = ("grey", "small", "quiet", "old", "tall", "warm", "distant", "broken", "red", "plain")
_NOUNS = ("boat", "mill", "field", "lamp", "horse", "river", "door", "market", "bell", "garden")
_VERBS = ("passed", "faced", "left", "followed", "reached", "hid", "crossed", "kept", "met", "drew")


def filler(rng: Random, num_words: int) -> str:
    """Return prose of exactly `num_words` words that says nothing."""
    words: list[str] = []
    while len(words) < num_words:
        words += ["The", rng.choice(_ADJECTIVES), rng.choice(_NOUNS), rng.choice(_VERBS)]
        words += ["the", rng.choice(_ADJECTIVES), f"{rng.choice(_NOUNS)}."]
    return f"{' '.join(words[:num_words]).rstrip('.')}."


def draw_passkey(rng: Random, difficulty: int) -> Example:
    """Draw a key, prose before it, and exactly `difficulty` words between it and the question."""
    key = str(rng.randrange(10_000, 100_000))
    before = filler(rng, rng.randint(1, max(1, difficulty // 4)))
    after = filler(rng, difficulty)
    return Example(
        prompt=f"{before} The passkey is {key}. {after} What is the passkey?\n",
        answer=key,
        difficulty=difficulty,
        identity=key,
    )


def draw_pairs(rng: Random, difficulty: int) -> Example:
    """Draw keys with values; exactly `difficulty` pairs lie between the asked one and the question.

    A held-out instance is a pair of key and value that training never shows as the answer.
    """
    num_before = rng.randint(0, difficulty)
    keys = _distinct_keys(rng, num_before + 1 + difficulty)
    pairs = [(key, str(rng.randrange(10, 100))) for key in keys]
    key, value = pairs[num_before]
    listed = " ".join(f"{key}={value}" for key, value in pairs)
    return Example(
        prompt=f"recall {listed} ? {key}=",
        answer=value,
        difficulty=difficulty,
        identity=f"{key}={value}",
    )


def _distinct_keys(rng: Random, count: int) -> list[str]:
    width = 2
    while 26**width < 4 * count:
        width += 1
    keys: dict[str, None] = {}
    while len(keys) < count:
        keys["".join(rng.choices(ascii_lowercase, k=width))] = None
    return list(keys)


PASSKEY = Task(
    name="passkey",
    cluster="factual",
    instruction="Answer with the number.",
    needs="n words between the key and the question",
    difficulties=range(8, 1_000_001),
    source=held_out("passkey", draw_passkey),
)

KEY_VALUE_RECALL = Task(
    name="key_value_recall",
    cluster="factual",
    instruction="Answer with the number that stands by the key after the question mark.",
    needs="n pairs between the asked one and the question",
    difficulties=range(1, 100_001),
    source=held_out("key_value_recall", draw_pairs),
)
