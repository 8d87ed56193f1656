"""Arithmetic modulo 7, step by step from left to right: n operations, n steps in a row.

A chain in the manner of Mano, the mental arithmetic of Allen-Zhu 2025 ("Physics of Language Models:
Part 4.1, Architecture Design and the Magic of Canon Layers"). No operand is trivial, so no step can
be skipped.
"""

from random import Random

from heddle.tasks.task import Example, Task, held_out

MODULUS = 7


def draw(rng: Random, difficulty: int) -> Example:
    """Draw a chain of `difficulty` operations and the value after each."""
    start = "mod7 "
    value = rng.randrange(MODULUS)
    text, labels = f"{start}{value}", []
    for _ in range(difficulty):
        operation = rng.choice("+-*")
        operand = rng.randrange(2 if operation == "*" else 1, MODULUS)
        value = apply(value, operation, operand)
        text += f"{operation}{operand}"
        labels.append((len(text) - 1, str(value)))
    return Example(
        prompt=f"{text}=", answer=str(value), difficulty=difficulty, labels=tuple(labels)
    )


def apply(value: int, operation: str, operand: int) -> int:
    """Return one step's result."""
    result = {"+": value + operand, "-": value - operand, "*": value * operand}[operation]
    return result % MODULUS


TASK = Task(
    name="modular_chain",
    cluster="symbolic",
    instruction=(
        "Work from left to right, whatever the operators, and take the remainder by 7 after each "
        "step. Answer with the last remainder."
    ),
    needs="n operations in a row",
    difficulties=range(2, 129),
    source=held_out("modular_chain", draw),
)
