"""Where a teacher's texts begin: kinds of prompts, each an endless list. Read by `self_text`.

Either no opening, openings and, for a model that chats, questions of each cluster; or questions of
tasks, for a teacher that knows nothing else.
"""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import NamedTuple

from heddle.errors import ConfigError
from heddle.model.config import CLUSTERS
from heddle.tasks.table import find
from heddle.tasks.task import Example, Task
from heddle.text.chat import ChatFormat
from heddle.text.tokenizer import Tokenizer
from heddle.train.data.document import NO_CLUSTER, cluster_number
from heddle.train.openings import OPENINGS, QUESTIONS
from heddle.weights.contents import Checkpoint


class Levels(NamedTuple):
    """A task's name and the difficulties to draw from."""

    name: str
    difficulties: range


class Stratum(NamedTuple):
    """One kind of prompts: its cluster's place in `CLUSTERS` or -1, and prompt number so and so."""

    name: str
    cluster: int
    prompt: Callable[[int], list[int]]


def task_levels(text: str) -> Levels:
    """Read NAME or NAME:FROM-TO. Raises ConfigError for what does not exist."""
    name, _, levels = text.rpartition(":")
    first, dash, last = levels.partition("-")
    if not (name and dash and first.isdecimal() and last.isdecimal()):
        return Levels(text, find(text).difficulties)
    offered, wanted = find(name).difficulties, range(int(first), int(last) + 1)
    if not wanted or wanted[0] not in offered or wanted[-1] not in offered:
        raise ConfigError(
            f"difficulties of {name} must be a range from {offered[0]} to {offered[-1]}, "
            f"not {levels}"
        )
    return Levels(name, wanted)


class Asker:
    """How a model is asked: as a chat if it has a template for that, else by bare prompts."""

    def __init__(self, model: Checkpoint, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._begin_ids = [] if model.bos_id is None or not model.add_bos else [model.bos_id]
        self._chat = None
        if model.chat_template is not None:
            self._chat = ChatFormat(
                model.chat_template,
                tokenizer,
                bos_id=model.bos_id,
                eos_ids=model.eos_ids,
                add_bos=model.add_bos,
            )

    @property
    def chats(self) -> bool:
        """Whether the model knows chats."""
        return self._chat is not None

    def question(self, text: str) -> list[int]:
        """Return the prompt that a person's words make."""
        if self._chat is None:
            return self._begin_ids + self._tokenizer.encode(text)
        return self._chat.render([{"role": "user", "content": text}])

    def task(self, task: Task, example: Example) -> list[int]:
        """Return the prompt that an example of a task makes."""
        said = example.prompt
        if self._chat is not None:
            said = task.asked(example)
        return self.question(said)


def task_strata(
    tasks: tuple[str, ...], model: Checkpoint, tokenizer: Tokenizer, *, seed: int
) -> list[Stratum]:
    """Return a stratum of each task: the questions of its training split."""
    asker = Asker(model, tokenizer)

    def prompt(task: Task, difficulties: range, index: int) -> list[int]:
        level = difficulties[index % len(difficulties)]
        return asker.task(task, task.example("train", index, seed=seed, difficulty=level))

    strata = []
    for name, difficulties in map(task_levels, tasks):
        task = find(name)
        cluster = cluster_number(task.cluster, where=name)
        strata.append(Stratum(name, cluster, partial(prompt, task, difficulties)))
    return strata


def unopened(model: Checkpoint, tokenizer: Tokenizer, *, seed: int) -> Stratum:
    """Return the stratum without opening.

    A model without a begin-of-text token starts with any token of its vocabulary instead.
    """
    bos_ids = [] if model.bos_id is None else [model.bos_id]

    def nothing(index: int) -> list[int]:
        return bos_ids or [Random(f"{seed}/{index}").randrange(tokenizer.size)]

    return Stratum("nothing", NO_CLUSTER, nothing)


def open_strata(model: Checkpoint, tokenizer: Tokenizer, *, seed: int) -> list[Stratum]:
    """Return the stratum without opening and one or two of each cluster."""
    prefix = [] if model.bos_id is None or not model.add_bos else [model.bos_id]

    def opening(cluster: str, index: int) -> list[int]:
        texts = OPENINGS[cluster]
        return prefix + tokenizer.encode(texts[index % len(texts)])

    strata = [unopened(model, tokenizer, seed=seed)]
    strata += [
        Stratum(f"opening, {name}", CLUSTERS.index(name), partial(opening, name))
        for name in OPENINGS
    ]
    asker = Asker(model, tokenizer)

    def question(cluster: str, index: int) -> list[int]:
        texts = QUESTIONS[cluster]
        return asker.question(texts[index % len(texts)])

    if asker.chats:
        strata += [
            Stratum(f"question, {name}", CLUSTERS.index(name), partial(question, name))
            for name in QUESTIONS
        ]
    return strata
