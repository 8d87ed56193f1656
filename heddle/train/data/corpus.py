"""What a stage reads: prepared text and generated tasks in their shares. Named in recipes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from heddle.errors import ConfigError
from heddle.tasks.table import find
from heddle.tasks.task import Split
from heddle.text.tokenizer import Tokenizer
from heddle.train.data.mix import Part, Source
from heddle.train.data.pack import TrainBatch
from heddle.train.data.prefetch import prefetch
from heddle.train.data.shards import Shards, tokenizer_sha256
from heddle.train.data.stream import BatchStream
from heddle.train.data.task_documents import Curriculum, TaskDocuments
from heddle.train.reference import chat_format
from heddle.weights.contents import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Text and tasks, as batches for one model's tokenizer.

    Attributes:
        text: folders that `data.prepare.prepare` wrote, each with the same share.
        tasks: names as `tasks.table.find` reads them, each with the same share.
        task_share: of all tasks together, where there is text too.
        chat: tasks are written as chats with the start's template, of which the answer is learned;
            otherwise as prompt and answer, with a label at every step of the prompt.
        num_levels: tasks are drawn from so many difficulties, the lowest first.
        num_validation: batches.
    """

    text: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("modular_chain", "s3_tracking", "p_hop", "key_value_recall")
    task_share: float = 0.2
    chat: bool = False
    num_levels: int = 8
    tokens_per_batch: int = 8192
    max_sequence: int = 1024
    num_validation: int = 4
    seed: int = 0

    def __post_init__(self):
        if not self.text and not self.tasks:
            raise ConfigError("corpus: give it a folder of prepared text or a task")
        if not 0 < self.task_share < 1:
            raise ConfigError(f"corpus: task_share must lie in (0, 1), not {self.task_share}")
        if self.num_levels < 1 or self.num_validation < 1:
            raise ConfigError("corpus: num_levels and num_validation must be at least 1")

    def batches(self, start: Checkpoint | None) -> "CorpusBatches":
        """Open the data for the model that a run starts from.

        Raises ConfigError without one, DataError for text of another tokenizer.
        """
        if start is None:
            raise ConfigError("a corpus is written in its start's tokens: give the run a start")
        return CorpusBatches(self._stream(start, "train"), self._stream(start, "validation"), self)

    def _stream(self, start: Checkpoint, split: Split) -> BatchStream:
        tokenizer = Tokenizer(start.tokenizer_json)
        text_share = (1 - self.task_share) / max(len(self.text), 1)
        parts = {
            folder: Part(source=_shards(Path(folder), split, tokenizer), share=text_share)
            for folder in self.text
        }
        for name in self.tasks:
            source = self._task(name, split, start, tokenizer)
            parts[name] = Part(source=source, share=self.task_share / len(self.tasks))
        return BatchStream(
            parts,
            seed=self.seed,
            tokens_per_batch=self.tokens_per_batch,
            max_sequence=self.max_sequence,
        )

    def _task(self, name: str, split: Split, start: Checkpoint, tokenizer: Tokenizer) -> Source:
        task = find(name)
        levels = task.difficulties[: self.num_levels]
        return TaskDocuments(
            task,
            tokenizer,
            end_id=start.eos_ids[0],
            curriculum=Curriculum(lowest=levels[0], highest=levels[-1]),
            seed=self.seed,
            dense=not self.chat,
            chat=chat_format(start) if self.chat else None,
            split=split,
        )


class CorpusBatches:
    """The training batches, as `stage.Stage` wants them, and the validation batches."""

    def __init__(self, train: BatchStream, validation: BatchStream, corpus: Corpus):
        self._train, self._validation = train, validation
        self._num_validation = corpus.num_validation

    def __call__(
        self, cursor: Any, *, rank: int, num_ranks: int
    ) -> Iterator[tuple[TrainBatch, dict[str, Any]]]:
        """Yield one rank's batches from a place on, made ahead by a thread."""
        return prefetch(self._train.batches(cursor, rank=rank, num_ranks=num_ranks))

    def validation(self) -> Iterator[TrainBatch]:
        """Yield the same batches each time, of what is held out."""
        return (batch for batch, _ in islice(self._validation.batches(), self._num_validation))


def _shards(folder: Path, split: Split, tokenizer: Tokenizer) -> Source:
    return Shards(folder / split, tokenizer_sha256=tokenizer_sha256(tokenizer.json))
