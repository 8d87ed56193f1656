"""Supervised fine-tuning: learn the assistant's turns of chats. Named in recipes.

The loss is pretraining's, on the tokens that an answer is made of; chats are written as serving
would write them. Source: instruction tuning, Wei et al. 2021 (arXiv:2109.01652).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from heddle.errors import ConfigError, DataError
from heddle.tasks.table import find
from heddle.tasks.task import Split
from heddle.text.chat import ChatFormat
from heddle.text.tokenizer import Tokenizer
from heddle.train.adaptive import USUAL, Auxiliary
from heddle.train.data.chat_documents import ChatDocuments
from heddle.train.data.mix import Part, Source
from heddle.train.data.pack import TrainBatch
from heddle.train.data.shards import Shards, tokenizer_sha256
from heddle.train.data.stream import BatchStream
from heddle.train.data.task_documents import Curriculum, TaskDocuments
from heddle.train.depth import DepthSchedule
from heddle.train.pretrain import pretrain
from heddle.train.reference import chat_format, needs_start
from heddle.train.stage import Stage
from heddle.weights.contents import Checkpoint


@dataclass(frozen=True, kw_only=True)
class ChatTuning:
    """Chats, and tasks written as chats, in the words of the model that the run starts from.

    Attributes:
        chats: JSONL files of chats, which are read into memory, and folders that
            `data.prepare.prepare` wrote with kind "chat".
        held_out_share: of the files' chats, chosen by their hash, for validation.
        tasks: names as `tasks.table.find` reads them, each with the same share.
        task_share: of all tasks together.
        num_levels: tasks are drawn from so many difficulties, the lowest first.
        max_sequence: longer chats are cut; None is as long as a batch.
        num_validation: batches.
        depth: loops of a model that thinks; one unless set.
    """

    chats: tuple[Path, ...]
    held_out_share: float = 0.1
    tasks: tuple[str, ...] = ()
    task_share: float = 0.2
    num_levels: int = 4
    tokens_per_batch: int = 2048
    max_sequence: int | None = None
    num_validation: int = 2
    seed: int = 0
    depth: DepthSchedule = DepthSchedule(kind="fixed", first_mean=1.0, last_mean=1.0)
    auxiliary: Auxiliary = USUAL

    def __post_init__(self):
        if not self.chats:
            raise ConfigError("objective.chats names no file to learn from")
        if not 0 <= self.held_out_share < 1 or not 0 < self.task_share < 1:
            raise ConfigError("held_out_share must lie in [0, 1), task_share in (0, 1)")
        if self.num_levels < 1 or self.num_validation < 1:
            raise ConfigError("num_levels and num_validation must be at least 1")

    def stage(self, start: Checkpoint | None) -> Stage:
        """Read the chats; raises DataError for rows that are none, ConfigError without a start."""
        start = needs_start(start, "fine-tuning")
        train = BatchStream(self._parts(start, "train"), **self._sizes)
        held_out = self._parts(start, "validation")

        def validation() -> Iterator[TrainBatch]:
            batches = BatchStream(held_out, **self._sizes).batches()
            return (batch for batch, _ in islice(batches, self.num_validation))

        return pretrain(
            train.batches,
            validation=validation if held_out else None,
            auxiliary=self.auxiliary,
            depth=self.depth.depth,
        )

    @property
    def _sizes(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "tokens_per_batch": self.tokens_per_batch,
            "max_sequence": self.max_sequence,
        }

    def _parts(self, start: Checkpoint, split: Split) -> dict[str, Part]:
        chat = chat_format(start)
        chats = self._chats(start, chat, split)
        if split == "train" and not chats:
            names = ", ".join(map(str, self.chats))
            raise DataError(f"{names}: no chat to learn from; lower objective.held_out_share")
        chat_share = 1 - self.task_share if self.tasks else 1.0
        parts = {
            name: Part(source=source, share=chat_share / len(chats))
            for name, source in chats.items()
        }
        for name in self.tasks:
            task = find(name)
            levels = task.difficulties[: self.num_levels]
            documents = TaskDocuments(
                task,
                Tokenizer(start.tokenizer_json),
                end_id=start.eos_ids[0],
                curriculum=Curriculum(lowest=levels[0], highest=levels[-1]),
                seed=self.seed,
                chat=chat,
                split=split,
            )
            parts[name] = Part(source=documents, share=self.task_share / len(self.tasks))
        return parts

    def _chats(self, start: Checkpoint, chat: ChatFormat, split: Split) -> dict[str, Source]:
        """Return what holds chats of a split: the files together, and each folder."""
        documents = ChatDocuments(
            [path for path in self.chats if not path.is_dir()],
            chat,
            eos_ids=start.eos_ids,
            held_out_share=self.held_out_share,
            is_validation=split == "validation",
        )
        sources: dict[str, Source] = {"chats": documents} if documents.num_documents else {}
        made_for = tokenizer_sha256(start.tokenizer_json)
        for folder in self.chats:
            if folder.is_dir() and (split == "train" or (folder / split).is_dir()):
                sources[str(folder)] = Shards(folder / split, tokenizer_sha256=made_for)
        return sources
