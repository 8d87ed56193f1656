"""The procedural tasks of reasoning-gym: data, evaluation and reward, held out by question.

An optional dependency (`pip install "heddle-lm[tasks]"`), imported when such a task is first asked
for. Source: https://github.com/open-thought/reasoning-gym (Apache-2.0).
"""

import difflib
from collections.abc import Mapping
from random import Random
from typing import Any

from heddle.errors import ConfigError
from heddle.tasks.task import Example, Task, held_out

PREFIX = "reasoning_gym:"
INSTRUCTION = "Answer with the result alone."

# Left out: those without a reference answer, one that is made of others, and those whose instances
# differ from process to process for the same seed (they iterate over sets of text).
_LEFT_OUT = {
    "boxnet",
    "composite",
    "graph_color",
    "propositional_logic",
    "rubiks_cube",
    "rush_hour",
    "isomorphic_strings",
    "polynomial_multiplication",
    "ransom_note",
    "word_ladder",
}

# Those whose scorer hands the reply to Python's `eval`, or to SymPy's parser, which does so too:
# whoever writes the reply could run anything, or never end. Only the answer itself is right here.
_REPLY_IS_RUN = {
    "binary_matrix",
    "countdown",
    "intermediate_integration",
    "n_queens",
    "puzzle24",
    "simple_integration",
    "spiral_matrix",
    "string_insertion",
}

_SPATIAL_CATEGORIES = ("arc", "games", "geometry", "graphs")  # all others are symbolic


def names() -> list[str]:
    """Return the package's names of its usable tasks. Raises ConfigError without the package."""
    return sorted(set(_factory().DATASETS) - _LEFT_OUT)


def find(name: str) -> Task:
    """Return one task by the package's name for it, such as "leg_counting".

    It has one level, the package's default configuration. Raises ConfigError for an unknown name or
    without the package.
    """
    factory = _factory()
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        raise ConfigError(
            f"reasoning_gym has no usable task {name!r}"
            + (f"; did you mean {near[0]}?" if near else "")
        )

    def draw(rng: Random, difficulty: int) -> Example:
        entry = factory.create_dataset(name, seed=rng.randrange(2**31), size=1)[0]
        return Example(
            prompt=f"{entry['question'].rstrip()}\n",
            answer=entry["answer"],
            difficulty=difficulty,
            extra={"entry": entry},
        )

    def grade(example: Example, reply: str) -> float:
        return score(name, reply, example.extra["entry"])

    category = factory.DATASETS[name][0].__module__.split(".")[1]
    return Task(
        name=PREFIX + name,
        cluster="spatial" if category in _SPATIAL_CATEGORIES else "symbolic",
        instruction=INSTRUCTION,
        needs="the package's default configuration",
        difficulties=range(1, 2),
        source=held_out(PREFIX + name, draw),
        grade=grade,
    )


def score(name: str, reply: str, entry: Mapping[str, Any]) -> float:
    """Return how right a reply is, from 0 to 1: the answer itself, or as the package has it.

    A reply that the package's scorer cannot read is wrong. Raises ConfigError without the package.
    """
    scorer = _factory().get_score_answer_fn(name)
    said = reply.strip()
    if said == entry["answer"].strip():
        return 1.0
    if name in _REPLY_IS_RUN:
        return 0.0
    try:
        return min(1.0, max(0.0, float(scorer(said, entry))))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return 0.0


def _factory() -> Any:
    try:
        from reasoning_gym import factory
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"tasks of reasoning-gym need a package ({error}): pip install 'heddle-lm[tasks]'"
        ) from error
    return factory
