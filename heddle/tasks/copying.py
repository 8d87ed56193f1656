"""Writing a string again, forwards or backwards: the plainest use of a distance."""

from random import Random
from string import ascii_lowercase

from heddle.tasks.task import Example, Task, held_out


def _task(name: str, instruction: str, step: int) -> Task:
    def draw(rng: Random, difficulty: int) -> Example:
        text = "".join(rng.choices(ascii_lowercase, k=difficulty))
        return Example(prompt=f"{name} {text}=", answer=text[::step], difficulty=difficulty)

    return Task(
        name=name,
        cluster="symbolic",
        instruction=instruction,
        needs="n letters",
        difficulties=range(3, 1025),
        source=held_out(name, draw),
    )


COPY = _task("copy", "Answer with the letters before the equals sign.", 1)
REVERSE = _task("reverse", "Answer with the letters before the equals sign, backwards.", -1)
