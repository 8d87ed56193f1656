"""A task's prompts by number, and the scores of answers to them. Called by `rl`."""

from collections.abc import Collection, Sequence
from dataclasses import astuple
from typing import Any, NamedTuple

from heddle.errors import DataError
from heddle.tasks.task import Example, Split, Task
from heddle.text.chat import ChatFormat
from heddle.text.tokenizer import Tokenizer
from heddle.train.data.shards import tokenizer_sha256
from heddle.train.data.task_documents import Curriculum, chat_messages


class Question(NamedTuple):
    """A task's example and its prompt as the model reads it."""

    example: Example
    prompt: list[int]


class Questions:
    """A task's prompts by number, bare or as a chat's first turn, and the scores of answers."""

    def __init__(
        self,
        task: Task,
        tokenizer: Tokenizer,
        *,
        end_ids: Collection[int],
        levels: Curriculum,
        seed: int = 0,
        chat: ChatFormat | None = None,
    ):
        """Write a task's questions for a tokenizer; `end_ids` end an answer.

        Raises ConfigError for levels that the task does not have.
        """
        levels.check(task)
        self.end_ids = end_ids
        self._task, self._tokenizer, self._chat = task, tokenizer, chat
        self._levels, self._seed = levels, seed

    def identity(self) -> dict[str, Any]:
        """Return what changes when the questions do, as JSON."""
        return {
            "task": self._task.name,
            "levels": list(astuple(self._levels)),
            "seed": self._seed,
            "tokenizer": tokenizer_sha256(self._tokenizer.json),
            "chat": self._chat is not None,
        }

    def question(self, split: Split, number: int) -> Question:
        """Return a question; a task that has an end begins anew, in another order.

        Raises DataError for a split without examples.
        """
        sizes = self._task.num_examples
        if sizes and not sizes[split]:
            raise DataError(f"{self._task.name} has no {split} rows to draw questions from")
        epoch, index = divmod(number, sizes[split]) if sizes else (0, number)
        level = self._levels.drawn_level(number, seed=self._seed)
        example = self._task.example(split, index, seed=self._seed + epoch, difficulty=level)
        if self._chat is None:
            return Question(example, self._tokenizer.encode(example.prompt))
        return Question(example, self._chat.render(chat_messages(self._task, example)[:1]))

    def score(self, question: Question, answer: Sequence[int]) -> float:
        """Return the task's score, from 0 to 1, of an answer's tokens."""
        return self._task.score(question.example, self._tokenizer.decode(list(answer)))
