"""The teacher of the experiment `flash`: a network that loops, routes, and writes what it knows.

It learns three tasks, a byte a token. A document that begins with the begin token is learned whole
now and then, so that the teacher, given that token alone, writes questions and answers by itself:
its student needs no data. Half of the cups come without that token, and with a label at every move.
In a second run, all else frozen, it learns when to think and when to stop.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from heddle.model.batch import Depth
from heddle.model.config import FabricConfig, ModelConfig, RopeConfig, ThinkConfig
from heddle.model.presets import cluster_experts
from heddle.tasks.table import TASKS
from heddle.tasks.task import Example
from heddle.text.tokenizer import Tokenizer
from heddle.train.data.document import Document, cluster_number, encode_example, next_tokens
from heddle.train.data.numbered import numbered_batches
from heddle.train.data.pack import TrainBatch, pack_whole
from heddle.train.data.vocabulary import BYTES_ONLY, END_TOKEN, train_tokenizer
from heddle.train.fit import FitConfig
from heddle.train.forward import exact_depth
from heddle.train.halting import Halting
from heddle.train.optim import OptimiserConfig
from heddle.train.pretrain import pretrain
from heddle.train.run import Run, start
from heddle.train.schedule import Schedule
from heddle.train.stage import Stage
from heddle.weights.checkpoint import Checkpoint, open_checkpoint
from heddle.weights.native import write_native

LEVELS = {"cups": range(1, 3), "copy": range(3, 6), "key_value_recall": range(1, 2)}
MOST_LOOPS = 4
TEACHER_RATE = 5e-3
WHOLE_EVERY = 4  # so many documents, one is learned whole: a question's letters are chance


def teacher_model() -> ModelConfig:
    """Return a network of four layers whose first is looped."""
    return ModelConfig(
        vocab_size=BYTES_ONLY,
        width=128,
        num_layers=4,
        num_heads=4,
        num_kv_heads=4,
        head_width=32,
        ffn_width=128,
        context_length=256,
        qk_norm=True,
        rope=RopeConfig(base=100.0),
        fabric=FabricConfig(experts=cluster_experts(16)),
        think=ThinkConfig(
            first_layer=0, num_layers=1, adapter_rank=64, lora_rank=8, max_loops=MOST_LOOPS
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """Micro-batches of cups and, in turn, of the other tasks.

    Attributes:
        microbatch_tokens: about so many.
        seed: of the questions.
    """

    microbatch_tokens: int = 320
    seed: int = 0

    def stage(self, start: Checkpoint | None) -> Stage:
        """Return the stage of the tasks."""
        tokenizer = Tokenizer(train_tokenizer([]))
        stage = pretrain(self.batches(tokenizer), depth=drawn_depth)
        return replace(stage, tokenizer=tokenizer.json)

    def batches(self, tokenizer: Tokenizer) -> Callable[..., Iterator[tuple[Any, dict[str, Any]]]]:
        """Return the stream of training."""
        return numbered_batches(partial(self._batch, tokenizer), asdict(self))

    def _batch(self, tokenizer: Tokenizer, number: int) -> TrainBatch:
        random = np.random.default_rng((self.seed, number))
        others = [name for name in LEVELS if name != "cups"]
        names = others if number % 2 else ["cups"]
        end_id = tokenizer.control_tokens[END_TOKEN]
        documents: list[Document] = []
        while sum(len(document.token_N) for document in documents) < self.microbatch_tokens:
            turn, place = divmod(len(documents), len(names))
            task = TASKS[names[place]]
            level = int(random.choice(LEVELS[task.name]))
            index = number * self.microbatch_tokens + len(documents)
            example = task.example("train", index, seed=self.seed, difficulty=level)
            cluster = cluster_number(task.cluster, where=task.name)
            if task.name == "cups" and turn % 2:
                document = encode_example(
                    example, tokenizer, end_id=end_id, cluster=cluster, dense=True
                )
            else:
                is_whole = turn % WHOLE_EVERY == 0
                document = written(example, tokenizer, cluster=cluster, is_whole=is_whole)
            documents.append(document)
        return pack_whole(documents)


def drawn_depth(batch: TrainBatch, progress: float) -> Depth:
    """Return one, two or four loops for all tokens."""
    return exact_depth(2 ** int(torch.randint(3, ())), len(batch.token_T))


def written(example: Example, tokenizer: Tokenizer, *, cluster: int, is_whole: bool) -> Document:
    """Return question and answer between two end tokens; only the latter is learned, or all."""
    end_id = tokenizer.control_tokens[END_TOKEN]
    question, answer = (tokenizer.encode(text) for text in (example.prompt, example.answer))
    token_N = np.array([end_id, *question, *answer, end_id])
    trained_N = np.arange(len(token_N)) > (0 if is_whole else len(question))
    return Document(token_N, next_tokens(token_N, trained_N), cluster)


@dataclass(frozen=True, kw_only=True)
class Deciding:
    """The objective of the teacher's last run: whether a token is hard, and an answer settled."""

    lessons: Lessons

    def stage(self, start: Checkpoint | None) -> Stage:
        """Return the stage of halting on the lessons' text."""
        assert start is not None, "decisions are learned last"
        halting = Halting(most_loops=MOST_LOOPS, seed=self.lessons.seed)
        tokenizer = Tokenizer(start.tokenizer_json)
        return Stage(batches=self.lessons.batches(tokenizer), loss=halting.loss)


class Steps(NamedTuple):
    """Of a teacher's two runs."""

    learning: int
    deciding: int


def optimiser(learning_rate: float, num_steps: int) -> OptimiserConfig:
    """Return the optimiser of a run, whose rate falls over its last two fifths."""
    schedule = Schedule(warmup_steps=20, decay_steps=num_steps * 2 // 5, decay="linear")
    return OptimiserConfig(learning_rate=learning_rate, schedule=schedule)


def taught(folder: Path, config: ModelConfig, *, seed: int, steps: Steps) -> Path:
    """Train a network in two runs, or finish it, unless it is there; return where."""
    target = folder / "model"
    if target.exists():
        return target
    lessons = Lessons(seed=seed)
    learning = Run(
        folder=folder / "learning",
        model=config,
        objective=lessons,
        optimiser=optimiser(TEACHER_RATE, steps.learning),
        fit=FitConfig(num_steps=steps.learning, num_microbatches=2, seed=seed),
    )
    deciding = Run(
        folder=folder / "deciding",
        start=str(learning.folder),
        trains=("think.read*",),
        objective=Deciding(lessons=lessons),
        optimiser=replace(optimiser(TEACHER_RATE, steps.deciding), weight_decay=0.0),
        fit=FitConfig(num_steps=steps.deciding, seed=seed),
    )
    for run in (learning, deciding):
        start(run, resume=run.folder.exists())
    opened = open_checkpoint(deciding.folder)
    begin_id = Tokenizer(opened.tokenizer_json).control_tokens[END_TOKEN]
    write_native(replace(opened, bos_id=begin_id, add_bos=True), target)
    return target
