"""Addition, subtraction and multiplication of two whole numbers of up to n digits."""

from collections.abc import Callable
from operator import add, mul, sub
from random import Random

from heddle.tasks.task import Example, Task, held_out


def _task(name: str, sign: str, operate: Callable[[int, int], int]) -> Task:
    def draw(rng: Random, difficulty: int) -> Example:
        numbers = [
            rng.randrange(10 ** (difficulty - 1) if difficulty > 1 else 0, 10**difficulty),
            rng.randrange(10 ** rng.randint(1, difficulty)),
        ]
        rng.shuffle(numbers)
        first, second = numbers
        return Example(
            prompt=f"{first}{sign}{second}=",
            answer=str(operate(first, second)),
            difficulty=difficulty,
            identity=f"{min(numbers)} {max(numbers)}",  # a+b is held out if b+a is
        )

    return Task(
        name=name,
        cluster="symbolic",
        instruction="Answer with the number.",
        needs="numbers of n digits",
        difficulties=range(1, 33),
        source=held_out(name, draw),
    )


ADDITION = _task("addition", "+", add)
SUBTRACTION = _task("subtraction", "-", sub)
MULTIPLICATION = _task("multiplication", "*", mul)
