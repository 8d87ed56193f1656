"""A task as an endless source of documents. Put into mixes by recipes."""

import hashlib
from dataclasses import dataclass

import numpy as np

from heddle.errors import ConfigError
from heddle.tasks.task import Example, Split, Task
from heddle.text.chat import ChatFormat
from heddle.text.tokenizer import Tokenizer
from heddle.train.data.chat import learn_assistant
from heddle.train.data.document import Document, cluster_number, encode_example, next_tokens
from heddle.train.data.shards import tokenizer_sha256


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Which difficulties to draw.

    Attributes:
        lowest, highest: levels, both included.
        num_ramp: examples over which the highest level drawn rises from the lowest.
    """

    lowest: int
    highest: int
    num_ramp: int = 0

    def __post_init__(self):
        if not self.lowest <= self.highest or self.num_ramp < 0:
            raise ConfigError(
                f"a curriculum must rise: lowest {self.lowest}, highest {self.highest}, "
                f"num_ramp {self.num_ramp}"
            )

    def check(self, task: Task) -> None:
        """Raise ConfigError for levels that a task does not have."""
        for level in (self.lowest, self.highest):
            if level not in task.difficulties:
                raise ConfigError(
                    f"difficulty of {task.name} must be from {task.difficulties[0]} to "
                    f"{task.difficulties[-1]}, not {level}"
                )

    def level(self, index: int, random_number: int) -> int:
        """Return the difficulty of example `index`, uniform over what is open by then."""
        num_levels = self.highest - self.lowest + 1
        if index < self.num_ramp:
            num_levels = 1 + (num_levels - 1) * index // self.num_ramp
        return self.lowest + random_number % num_levels

    def drawn_level(self, index: int, *, seed: int) -> int:
        """Return the difficulty of example `index`, drawn from seed and index alone."""
        digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
        return self.level(index, int.from_bytes(digest, "little"))


class TaskDocuments:
    """A split of a task, written as prompt and answer, or as a chat."""

    num_documents = None
    whole = True

    def __init__(
        self,
        task: Task,
        tokenizer: Tokenizer,
        *,
        end_id: int,
        curriculum: Curriculum,
        seed: int = 0,
        dense: bool = False,
        chat: ChatFormat | None = None,
        split: Split = "train",
    ):
        """Write examples for a tokenizer.

        `end_id` ends an answer. `dense` learns the labels along the prompt too. With `chat` the
        instruction and the prompt are the user's turn, and the answer is the assistant's.
        """
        curriculum.check(task)
        if task.num_examples is not None:
            raise ConfigError(f"{task.name} is a file: prepare it as shards to train on it")
        if dense and chat:
            raise ConfigError("dense labels are for bare prompts, not for chats")
        self._task = task
        self._tokenizer = tokenizer
        self._end_id = end_id
        self._curriculum = curriculum
        self._seed = seed
        self._dense = dense
        self._chat = chat
        self._split: Split = split
        self._cluster = cluster_number(task.cluster, where=f"task {task.name}")
        self._last: tuple[int, Document] | None = None

    @property
    def fingerprint(self) -> str:
        """What changes when the documents do."""
        settings = (
            self._task.name,
            self._seed,
            self._curriculum,
            self._end_id,
            self._dense,
            tokenizer_sha256(self._tokenizer.json),
            self._chat is not None,
            self._split,
        )
        return hashlib.sha256(repr(settings).encode()).hexdigest()

    def length(self, index: int) -> int:
        """Return a document's number of tokens."""
        return len(self.read(index).token_N)

    def read(self, index: int) -> Document:
        """Return a document; the last one is kept, since its length is asked first."""
        if self._last is None or self._last[0] != index:
            self._last = index, self._make(index)
        return self._last[1]

    def _make(self, index: int) -> Document:
        level = self._curriculum.drawn_level(index, seed=self._seed)
        example = self._task.example(self._split, index, seed=self._seed, difficulty=level)
        if self._chat is None:
            return encode_example(
                example,
                self._tokenizer,
                end_id=self._end_id,
                cluster=self._cluster,
                dense=self._dense,
            )
        [(ids, learned)] = learn_assistant(
            self._chat, chat_messages(self._task, example), eos_ids=(self._end_id,)
        )
        token_N = np.array(ids)
        return Document(token_N, next_tokens(token_N, np.array(learned)), self._cluster)


def chat_messages(task: Task, example: Example) -> list[dict[str, str]]:
    """Return an example as a chat: instruction and prompt, then the answer."""
    return [
        {"role": "user", "content": task.asked(example)},
        {"role": "assistant", "content": example.answer},
    ]
