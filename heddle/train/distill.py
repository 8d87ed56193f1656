"""Distillation: a smaller student learns from its teacher alone, by text that the teacher writes.

`prepare` cuts the student out of the teacher, has the text written and returns the run that
`run.start` trains. In its folder:

    start/          the student before its first step
    text-HASH/      what the teacher wrote
    step-*/, model/ as every run leaves them

Called by `heddle distill`.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as torch_dist

from heddle.errors import ConfigError
from heddle.model.cost import total_params
from heddle.train.data.mix import Part
from heddle.train.data.pack import TrainBatch, by_length
from heddle.train.data.shards import Shards, tokenizer_sha256
from heddle.train.data.stream import BatchStream
from heddle.train.depth import DepthSchedule, check_depth
from heddle.train.fit import FitConfig
from heddle.train.imitation import Imitation, imitation_loss
from heddle.train.optim import OptimiserConfig
from heddle.train.retention import Pair, RetentionConfig, on_task, on_text
from heddle.train.run import Run
from heddle.train.schedule import Schedule
from heddle.train.self_text import SelfText, TextConfig
from heddle.train.stage import Loss, Stage
from heddle.train.student import Cut, student_config, student_tensors
from heddle.train.teacher import beside, frozen, most_loops
from heddle.weights.checkpoint import PUBLISHED, Checkpoint, open_checkpoint
from heddle.weights.contents import model_name
from heddle.weights.hub import resolve
from heddle.weights.native import write_native

START = "start"
REPORT = "report.json"


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """All settings of a distillation.

    Attributes:
        teacher_loops: that the student's most loops stand for; None is twice as many, or the
            teacher's most.
        tokens_per_batch: of a micro-batch.
        optimiser, fit: as of every run.
    """

    cut: Cut = Cut()
    text: TextConfig = TextConfig()
    weights: Imitation = Imitation()
    retention: RetentionConfig = RetentionConfig()
    teacher_loops: int | None = None
    tokens_per_batch: int = 2048
    optimiser: OptimiserConfig = OptimiserConfig(
        learning_rate=3e-4, schedule=Schedule(warmup_steps=50, decay_steps=500)
    )
    fit: FitConfig = FitConfig(num_steps=2000)


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """The objective: be like `teacher` on the shards in the folder `text`."""

    teacher: str
    text: str
    teacher_loops: int
    depth: DepthSchedule
    weights: Imitation
    tokens_per_batch: int
    validation_batches: int = 8

    def stage(self, start: Checkpoint | None) -> Stage:
        """Open teacher and text; return the stage."""
        checkpoint = open_checkpoint(resolve(self.teacher))
        teacher = frozen(checkpoint)

        def loss(model: Any, batch: TrainBatch, progress: float) -> Loss:
            batch = by_length(batch)
            depth = self.depth.depth(batch, progress)
            check_depth(model.config, depth)
            return imitation_loss(
                model,
                beside(teacher, model),
                batch,
                depth=depth,
                teacher_loops=self.teacher_loops,
                weights=self.weights,
            )

        return Stage(
            batches=self.stream(checkpoint, "train").batches,
            loss=loss,
            validation=lambda: self.held_out(checkpoint),
            uses_every_parameter=False,  # at one loop the later loops' have none
        )

    def held_out(self, checkpoint: Checkpoint) -> Iterator[TrainBatch]:
        """Yield batches of text that is not learned from."""
        batches = self.stream(checkpoint, "validation").batches()
        return (batch for batch, _ in islice(batches, self.validation_batches))

    def stream(self, checkpoint: Checkpoint, side: str) -> BatchStream:
        """Open one side of the text."""
        shards = Shards(
            Path(self.text) / side, tokenizer_sha256=tokenizer_sha256(checkpoint.tokenizer_json)
        )
        return BatchStream(
            {"text": Part(source=shards)}, seed=0, tokens_per_batch=self.tokens_per_batch
        )


def prepare(
    teacher: str, folder: Path, config: DistillConfig, *, tell: Callable[[int], None]
) -> Run:
    """Write the first student and the text where they are missing; return the run.

    `tell` is given the number of tokens written so far. Raises ConfigError for a student that is
    more than its teacher, and for a folder that holds another one.
    """
    checkpoint = open_checkpoint(resolve(teacher))
    student = student_config(checkpoint.config, config.cut)
    most = most_loops(student)
    loops = _teacher_loops(checkpoint, most, config)
    text = SelfText(folder, checkpoint, config.text, loops=loops)
    start = folder / START
    if start.exists() and open_checkpoint(start).config != student:
        raise ConfigError(
            f"{start} holds a student of another shape than is asked for: choose another folder, "
            "or the settings that it was made with"
        )
    if not (start.exists() and text.folder.exists()):
        if torch_dist.is_torchelastic_launched():
            raise ConfigError(
                f"several processes cannot write what is missing in {folder}: run this command "
                "without torchrun and with --only-prepare first, then again with --resume"
            )
        network = frozen(checkpoint)
        if not start.exists():
            parts = {name: [part] for name, part in student_tensors(network, student).items()}
            name = model_name(folder.resolve())
            write_native(
                replace(checkpoint, name=name, config=student, tensors=parts, base=None), start
            )
        text.write(network.to(_device()), tell=tell)
    mean = (1 + most) / 2
    return Run(
        folder=folder,
        start=str(start),
        objective=Distillation(
            teacher=teacher,
            text=str(text.folder),
            teacher_loops=loops,
            depth=DepthSchedule(
                first_mean=mean, last_mean=mean, deep_share=0.0, most=most, backprop_loops=0
            ),
            weights=config.weights,
            tokens_per_batch=config.tokens_per_batch,
        ),
        optimiser=config.optimiser,
        fit=config.fit,
    )


def report(run: Run, config: DistillConfig) -> dict[str, Any]:
    """Measure the student before and after, beside its teacher; also written as `REPORT`."""
    objective = run.objective
    assert isinstance(objective, Distillation), "`prepare` returned this run"
    checkpoint = open_checkpoint(resolve(objective.teacher))
    device = _device()
    teacher = frozen(checkpoint).to(device)
    found: dict[str, Any] = {"teacher": objective.teacher}
    for when, path in (("before", run.folder / START), ("after", run.folder / PUBLISHED)):
        student = frozen(open_checkpoint(path)).to(device)
        most = most_loops(student.config)
        found |= {
            "teacher_params": total_params(teacher.config),
            "student_params": total_params(student.config),
        }
        found[when] = [
            _measured(
                Pair(
                    teacher=teacher,
                    student=student,
                    teacher_loops=1 if loops < most else objective.teacher_loops,
                    student_loops=loops,
                ),
                objective,
                checkpoint,
                config,
            )
            for loops in sorted({1, most})
        ]
    unfinished = run.folder / f"{REPORT}.new"
    with unfinished.open("w", encoding="utf-8") as file:
        json.dump(found, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(run.folder / REPORT)
    return found


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _measured(
    pair: Pair, objective: Distillation, checkpoint: Checkpoint, config: DistillConfig
) -> dict[str, Any]:
    tasks = config.retention.tasks or config.text.tasks
    return {
        "student_loops": pair.student_loops,
        "teacher_loops": pair.teacher_loops,
        "text": on_text(pair, objective.held_out(checkpoint)),
        "tasks": [
            on_task(pair, checkpoint, task, config.retention, max_tokens=config.text.max_tokens)
            for task in tasks
        ],
    }


def _teacher_loops(teacher: Checkpoint, student_loops: int, config: DistillConfig) -> int:
    most = most_loops(teacher.config)
    loops = min(2 * student_loops, most) if config.teacher_loops is None else config.teacher_loops
    if not 1 <= loops <= most:
        raise ConfigError(
            f"teacher_loops must be from 1 to {most}, the most that the teacher takes, not {loops}"
        )
    return loops
