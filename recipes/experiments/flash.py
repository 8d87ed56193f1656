"""Flash: how much of a teacher a student keeps, at which part of its work, and what teaches it.

    python -m recipes.experiments.flash --write

The seed decides on teacher, text and student alike. Whoever comes first trains the teacher of a
seed; all students of that seed read the same text, which it wrote from nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from heddle.model.config import ModelConfig
from heddle.model.cost import total_params
from heddle.text.tokenizer import Tokenizer
from heddle.train.data.pack import TrainBatch, by_length
from heddle.train.distill import START, Distillation, DistillConfig, prepare
from heddle.train.fit import FitConfig
from heddle.train.imitation import Imitation
from heddle.train.pretrain import next_token_loss
from heddle.train.retention import Pair, on_text
from heddle.train.run import Run, start
from heddle.train.self_text import TextConfig
from heddle.train.stage import Loss, Stage
from heddle.train.student import Cut, student_config
from heddle.train.teacher import frozen, most_loops
from heddle.weights.checkpoint import Checkpoint, open_checkpoint
from recipes.experiments.experiment import Experiment, Figures, run
from recipes.experiments.flash_answers import ASKED, answer, exam, fewest_loops
from recipes.experiments.flash_tables import panels, tables
from recipes.experiments.flash_teacher import (
    MOST_LOOPS,
    TEACHER_RATE,
    Lessons,
    Steps,
    optimiser,
    taught,
    teacher_model,
)

TERMS = {
    "all-terms": Imitation(),
    "no-output": Imitation(output=0),
    "no-reverse": Imitation(reverse=0),
    "no-cluster": Imitation(cluster=0),
    "no-halting": Imitation(halting=0),
    "no-relations": Imitation(relations=0),
    "logits-alone": Imitation(reverse=0, cluster=0, halting=0, relations=0),
}


@dataclass(frozen=True, kw_only=True)
class Form:
    """How long everything takes.

    Attributes:
        teacher_steps: of the teacher's runs.
        text_tokens: that it then writes; texts_per_round: side by side.
        student_steps: of every student.
        num_examples: of each task's validation split, and of its test split.
    """

    teacher_steps: Steps
    text_tokens: int
    texts_per_round: int
    student_steps: int
    num_examples: int


FORMS = {  # by whether it is the full one
    False: Form(
        teacher_steps=Steps(learning=550, deciding=50),
        text_tokens=100_000,
        texts_per_round=512,
        student_steps=600,
        num_examples=300,
    ),
    True: Form(
        teacher_steps=Steps(learning=2500, deciding=200),
        text_tokens=500_000,
        texts_per_round=512,
        student_steps=2000,
        num_examples=1000,
    ),
}
TOKENS_PER_BATCH = 384
STUDENT_RATE = 5e-3


def settings(seed: int, form: Form) -> DistillConfig:
    """Return how a student is made: half the layers, and all of their experts."""
    return DistillConfig(
        cut=Cut(num_layers=2, max_loops=MOST_LOOPS, expert_share=1.0),
        text=TextConfig(
            num_tokens=form.text_tokens,
            max_tokens=56,
            openings=False,
            texts_per_round=form.texts_per_round,
            seed=seed,
        ),
        teacher_loops=MOST_LOOPS,
        tokens_per_batch=TOKENS_PER_BATCH,
        optimiser=replace(optimiser(STUDENT_RATE, form.student_steps), weight_decay=0.0),
        fit=FitConfig(num_steps=form.student_steps, seed=seed),
    )


def lesson(seed: int, form: Form, home: Path) -> Run:
    """Return the run of a seed's student; teacher, text and first student are made if missing."""
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / f"teacher-{seed}.lock"):
        teacher = taught(
            home / f"teacher-{seed}", teacher_model(), seed=seed, steps=form.teacher_steps
        )
        inside = home / f"teacher-{seed}" / "student"
        return prepare(str(teacher), inside, settings(seed, form), tell=lambda num_tokens: None)


@dataclass(frozen=True, kw_only=True)
class HardLabels:
    """The objective without a teacher: the next token of the text that it wrote."""

    lesson: Distillation

    def stage(self, start: Checkpoint | None) -> Stage:
        """Return the stage on the text's training side."""
        assert start is not None, "the student begins as a part of its teacher"

        def loss(model: Any, batch: TrainBatch, progress: float) -> Loss:
            batch = by_length(batch)
            depth = self.lesson.depth.depth(batch, progress)
            return next_token_loss(model, batch, depth=depth, progress=progress)

        batches = self.lesson.stream(start, "train").batches
        return Stage(batches=batches, loss=loss, uses_every_parameter=False)


def of_teacher(seed: int, full: bool, folder: Path) -> Figures:
    """Measure the teacher itself."""
    objective = _objective(lesson(seed, FORMS[full], folder.parent))
    return measured(open_checkpoint(Path(objective.teacher)), FORMS[full])


def of_cut(seed: int, full: bool, folder: Path) -> Figures:
    """Measure what was cut out of the teacher."""
    given = lesson(seed, FORMS[full], folder.parent)
    return compared(open_checkpoint(given.folder / START), given, FORMS[full])


def distilled(weights: Imitation) -> Callable[[int, bool, Path], Figures]:
    """Return the trial of a student that learns with these weights of the terms."""

    def trial(seed: int, full: bool, folder: Path) -> Figures:
        given = lesson(seed, FORMS[full], folder.parent)
        objective = replace(_objective(given), weights=weights)
        return compared(trained(replace(given, objective=objective), folder), given, FORMS[full])

    return trial


def on_hard_labels(seed: int, full: bool, folder: Path) -> Figures:
    """Train the same student on the same text, without the teacher's distributions."""
    given = lesson(seed, FORMS[full], folder.parent)
    objective = HardLabels(lesson=_objective(given))
    return compared(trained(replace(given, objective=objective), folder), given, FORMS[full])


def on_real_data(seed: int, full: bool, folder: Path) -> Figures:
    """Train the student's network from nothing on the tasks, for as many tokens as a student."""
    form = FORMS[full]
    config = student_model(seed, form)
    lessons = Lessons(seed=seed, microbatch_tokens=TOKENS_PER_BATCH // 2)
    alone = Run(
        folder=folder,
        model=config,
        objective=lessons,
        optimiser=optimiser(TEACHER_RATE, form.student_steps),
        fit=FitConfig(num_steps=form.student_steps, num_microbatches=2, seed=seed),
    )
    return compared(trained(alone, folder), lesson(seed, form, folder.parent), form)


def as_the_teacher(seed: int, full: bool, folder: Path) -> Figures:
    """Train the student's network as its teacher was trained."""
    form = FORMS[full]
    model = taught(folder, student_model(seed, form), seed=seed, steps=form.teacher_steps)
    return compared(open_checkpoint(model), lesson(seed, form, folder.parent), form)


def student_model(seed: int, form: Form) -> ModelConfig:
    """Return the student's shape."""
    return student_config(teacher_model(), settings(seed, form).cut)


def trained(run: Run, folder: Path) -> Checkpoint:
    """Train a student in a folder, or go on; return what it has become."""
    start(replace(run, folder=folder), resume=folder.exists())
    return open_checkpoint(folder)


def _objective(run: Run) -> Distillation:
    assert isinstance(run.objective, Distillation), "`prepare` returned this run"
    return run.objective


def compared(student: Checkpoint, given: Run, form: Form) -> Figures:
    """Measure a student alone, and beside its teacher on text that was held out."""
    objective = _objective(given)
    teacher = open_checkpoint(Path(objective.teacher))
    pair = Pair(
        teacher=frozen(teacher),
        student=frozen(student),
        teacher_loops=objective.teacher_loops,
        student_loops=most_loops(student.config),
    )
    return measured(student, form) | {"text": on_text(pair, objective.held_out(teacher))}


def measured(checkpoint: Checkpoint, form: Form) -> Figures:
    """Let a network answer each task at every depth, and at the depth that it chooses by itself.

    `loops` is the depth that it is measured at: of the validation split's.
    """
    model, tokenizer = frozen(checkpoint), Tokenizer(checkpoint.tokenizer_json)
    most = most_loops(checkpoint.config)
    tasks: dict[str, Any] = {}
    for name in ASKED:
        validation, test = (
            exam(name, split, tokenizer, num_examples=form.num_examples)
            for split in ("validation", "test")
        )
        tasks[name] = {
            "chance": test.chance,
            "loops": fewest_loops(model, validation.batch),
            "by_loops": [
                answer(model, test.batch, loops=loops)._asdict() for loops in range(1, most + 1)
            ],
            "auto": answer(model, test.batch, loops=most, auto=True)._asdict(),
        }
    return {"params": total_params(checkpoint.config), "tasks": tasks}


EXPERIMENT = Experiment(
    name="flash",
    title="Flash: what a student keeps of its teacher",
    arms={
        "teacher": of_teacher,
        "as-the-teacher": as_the_teacher,
        "real-data": on_real_data,
        "cut": of_cut,
        **{name: distilled(weights) for name, weights in TERMS.items()},
        "hard-labels": on_hard_labels,
    },
    tables=tables,
    panels=panels,
)

if __name__ == "__main__":
    run(EXPERIMENT)
