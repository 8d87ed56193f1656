"""The word problem of a group: a start and n factors, what is the product?

The standard form of state tracking (Liu et al. 2022, arXiv:2210.10749; Merrill, Petty and Sabharwal
2024, arXiv:2404.08819), in the smallest group whose products depend on the order, in that of the
days of the week, and among the affine maps modulo 7. A state is a digit, the start as every
product, so that one which was worked out reads like one that was given. Factors are letters, so
that none reads like a state, and only a few that generate the group: a small table has all that is
to be known.
"""

from collections.abc import Mapping
from itertools import permutations, product
from random import Random

from heddle.tasks.task import Example, Task, held_out

DAYS = 7
MODULUS = 7
# What each letter puts at the three places: the items of the first two swapped, of the last two,
# all moved one place to the left.
S3_FACTORS = {"a": (1, 0, 2), "b": (0, 2, 1), "c": (1, 2, 0)}
DAY_FACTORS = {"a": 1, "b": 2, "c": 3}
AFFINE_FACTORS = {"a": (1, 1), "b": (2, 0), "c": (3, 0)}  # times and plus: generate all 42 maps

Products = Mapping[tuple[str, str], str]  # of a state and a factor


def _s3() -> Products:
    """Return the products of the six arrangements of three items, numbered in their order."""
    arrangements = list(permutations(range(3)))
    digit = {each: str(number) for number, each in enumerate(arrangements, 1)}
    return {
        (digit[state], letter): digit[state[factor[0]], state[factor[1]], state[factor[2]]]
        for state, (letter, factor) in product(arrangements, S3_FACTORS.items())
    }


def _weekdays() -> Products:
    """Return the days 1 to 7 moved on."""
    return {
        (str(day + 1), letter): str((day + days) % DAYS + 1)
        for day, (letter, days) in product(range(DAYS), DAY_FACTORS.items())
    }


def _affine() -> Products:
    """Return the numbers 0 to 6, multiplied and added to."""
    return {
        (str(number), letter): str((number * times + plus) % MODULUS)
        for number, (letter, (times, plus)) in product(range(MODULUS), AFFINE_FACTORS.items())
    }


def _task(
    name: str, products: Products, *, prefix: str, cluster: str, instruction: str, needs: str
) -> Task:
    states, factors = (sorted(set(column)) for column in zip(*products, strict=True))

    def draw(rng: Random, difficulty: int) -> Example:
        state = rng.choice(states)
        text, labels = prefix + state, []
        for factor in rng.choices(factors, k=difficulty):
            state = products[state, factor]
            labels.append((len(text), state))
            text += factor
        return Example(prompt=f"{text}=", answer=state, difficulty=difficulty, labels=tuple(labels))

    return Task(
        name=name,
        cluster=cluster,
        instruction=instruction,
        needs=needs,
        difficulties=range(1, 257),
        source=held_out(name, draw),
    )


S3_PRODUCT = _task(
    "s3_product",
    _s3(),
    prefix="mul",
    cluster="spatial",
    instruction=(
        "Three items lie in one of six arrangements: 1 is 123, 2 is 132, 3 is 213, 4 is 231, 5 is "
        "312, 6 is 321. The digit says which. Each letter is a move: a swaps the first two items, "
        "b the last two, c moves all one place to the left and the first to the end. Answer with "
        "the number of the last arrangement."
    ),
    needs="n products in a row",
)
WEEKDAY = _task(
    "weekday",
    _weekdays(),
    prefix="day",
    cluster="symbolic",
    instruction=(
        "The days of the week are 1 to 7. The digit is a day; each letter moves it on: a by one "
        "day, b by two, c by three. Answer with the day."
    ),
    needs="n moves in a row",
)
AFFINE = _task(
    "affine",
    _affine(),
    prefix="aff",
    cluster="symbolic",
    instruction=(
        "The digit is a number from 0 to 6. Each letter changes it: a adds one, b doubles it, c "
        "triples it; the remainder by 7 is kept. Answer with the number."
    ),
    needs="n steps in a row",
)
