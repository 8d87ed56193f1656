"""Five cups, a ball under one of them, n moves of the cups: where is the ball?

The smallest part of the word problem of S5 that still needs every move: one item's place instead of
all of them (`permutations` has the whole, and its sources). A place is one digit, before the moves
as after each of them, so that a state that was worked out reads like one that was given.
"""

from random import Random

from heddle.tasks.permutations import moves
from heddle.tasks.task import Example, Task, held_out

NUM_CUPS = 5
_MOVES = moves(NUM_CUPS)


def draw(rng: Random, difficulty: int) -> Example:
    """Draw a start and `difficulty` moves, and the ball's place after each."""
    place = rng.randrange(NUM_CUPS)
    text, labels = f"cup{place + 1}", []
    for letter in rng.choices(list(_MOVES), k=difficulty):
        place = _MOVES[letter].index(place)
        labels.append((len(text), str(place + 1)))
        text += letter
    return Example(
        prompt=f"{text}=", answer=str(place + 1), difficulty=difficulty, labels=tuple(labels)
    )


TASK = Task(
    name="cups",
    cluster="spatial",
    instruction=(
        f"{NUM_CUPS} cups stand in a row, with a ball under the one that the digit says. Each "
        f"letter is a move: {', '.join(list(_MOVES)[:-2])} swap the cups at places "
        "1 2, 1 3, 1 4, 1 5, 2 3, 2 4, 2 5, 3 4, 3 5, 4 5; k moves every cup one place to the left "
        "and the first to the end, l the other way round. Answer with the ball's place."
    ),
    needs="n moves in a row",
    difficulties=range(1, 257),
    source=held_out("cups", draw),
)
