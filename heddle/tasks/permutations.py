"""State tracking in S3 and S5: where things are after n moves.

The word problem of S5 is complete for NC1 (Barrington 1989), out of reach of a fixed number of
transformer layers at any length (Liu et al. 2022, arXiv:2210.10749; Merrill, Petty and Sabharwal
2024, arXiv:2404.08819): depth must grow with the logarithm of n at least. S3 is its easy sibling.
"""

from itertools import combinations
from random import Random
from string import ascii_lowercase

from heddle.tasks.task import Example, Task, held_out

Move = tuple[int, ...]  # place i receives what was at place move[i]


def moves(size: int) -> dict[str, Move]:
    """Return the moves by letter: every swap of two places, then a turn to the left and one back.

    Together they generate all of S_size.
    """
    places = tuple(range(size))
    swaps = []
    for first, second in combinations(places, 2):
        swapped = list(places)
        swapped[first], swapped[second] = second, first
        swaps.append(tuple(swapped))
    turns = [places[1:] + places[:1], places[-1:] + places[:-1]]
    return dict(zip(ascii_lowercase, [*swaps, *turns], strict=False))


def _task(size: int) -> Task:
    name = f"s{size}_tracking"
    table = moves(size)

    def draw(rng: Random, difficulty: int) -> Example:
        start = f"s{size} "
        word = "".join(rng.choices(list(table), k=difficulty))
        state = tuple(range(size))
        labels = []
        for offset, letter in enumerate(word, len(start)):
            state = tuple(state[place] for place in table[letter])
            labels.append((offset, str(state[0] + 1)))
        return Example(
            prompt=f"{start}{word}=",
            answer="".join(str(item + 1) for item in state),
            difficulty=difficulty,
            labels=tuple(labels),
        )

    explained = ", ".join(f"{letter}: {_arrangement(move)}" for letter, move in table.items())
    return Task(
        name=name,
        cluster="spatial",
        instruction=(
            f"The items {_arrangement(range(size))} lie in a row. Each letter is a move, shown by "
            f"what it makes of that row ({explained}). Answer with the row after all moves."
        ),
        needs="n moves in a row",
        difficulties=range(4, 257),
        source=held_out(name, draw),
    )


def _arrangement(state: Move | range) -> str:
    return "".join(str(item + 1) for item in state)


S3 = _task(3)
S5 = _task(5)
