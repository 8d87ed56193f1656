"""Nested operations on lists of digits; the depth of the nesting is the depth that is needed.

After ListOps (Nangia and Bowman 2018, arXiv:1804.06028). One branch goes down to the full depth,
and the answer hangs on its innermost digit: nothing above it may settle the answer alone.
"""

from collections.abc import Callable, Sequence
from random import Random
from statistics import median_low

from heddle.tasks.task import Example, Task, held_out

OPERATIONS: dict[str, Callable[[Sequence[int]], int]] = {
    "MAX": max,
    "MIN": min,
    "MED": median_low,
    "SUM": lambda digits: sum(digits) % 10,
}


def draw(rng: Random, difficulty: int) -> Example:
    """Build the expression from the inside out."""
    digit = rng.randrange(10)
    text = str(digit)
    outcome = tuple(range(10))  # of the expression so far, for each innermost digit
    for _ in range(difficulty):
        text, outcome = _wrap(rng, text, outcome)
    return Example(prompt=f"{text}=", answer=str(outcome[digit]), difficulty=difficulty)


def _wrap(rng: Random, inner: str, outcome: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    while True:
        name = rng.choice(list(OPERATIONS))
        others = [rng.randrange(10) for _ in range(rng.randint(1, 3))]
        wrapped = tuple(OPERATIONS[name]([*others, value]) for value in outcome)
        if len(set(wrapped)) > 1:
            break
    words = [str(digit) for digit in others]
    words.insert(rng.randint(0, len(words)), inner)
    return f"[{name} {' '.join(words)}]", wrapped


TASK = Task(
    name="list_operations",
    cluster="symbolic",
    instruction=(
        "Evaluate the nested lists: MAX and MIN are the largest and the smallest, MED the median "
        "(of an even number the lower one), SUM the last digit of the sum. Answer with the digit."
    ),
    needs="lists nested n deep",
    difficulties=range(1, 65),
    source=held_out("list_operations", draw),
)
