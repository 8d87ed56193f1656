"""`heddle distill`: make a smaller student of a model, from text that the model writes itself."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from heddle.cli import options
from heddle.cli.console import err, note, print_json
from heddle.cli.console import out as screen
from heddle.cli.train import RESUMABLE, Resume, Set

if TYPE_CHECKING:
    from heddle.train.distill import DistillConfig
    from heddle.train.run import Run

Teacher = Annotated[str, typer.Argument(help=options.MODEL_HELP, metavar="TEACHER")]
Out = Annotated[Path, typer.Option(help="The folder for text, checkpoints and the student.")]
Layers = Annotated[
    int | None, typer.Option(help="The student's layers.", show_default="two thirds")
]
Loops = Annotated[
    int | None, typer.Option(help="The student's most loops.", show_default="4 at most")
]
ExpertShare = Annotated[
    float | None, typer.Option(help="What experts keep of their width.", show_default="0.5")
]
OnlyPrepare = Annotated[
    bool, typer.Option("--only-prepare", help="Cut the student, write the text, and stop.")
]


def distill(
    teacher: Teacher,
    out: Out,
    layers: Layers = None,
    loops: Loops = None,
    expert_share: ExpertShare = None,
    set: Set = None,
    resume: Resume = False,
    only_prepare: OnlyPrepare = False,
    as_json: options.AsJson = False,
) -> None:
    """Make a smaller student of a model, without other data; status 75 says that it can resume."""
    from heddle.cli.download import fetched
    from heddle.config import DEFAULT_MODEL
    from heddle.errors import ConfigError
    from heddle.train import distill as distillation
    from heddle.train.overrides import override
    from heddle.train.run import start

    config = override(distillation.DistillConfig(), set or [])
    asked = {"num_layers": layers, "max_loops": loops, "expert_share": expert_share}
    given = {name: value for name, value in asked.items() if value is not None}
    config = replace(config, cut=replace(config.cut, **given))
    if (out / distillation.START).exists() and not resume:
        raise ConfigError(
            f"{out} already holds a distillation; add --resume to go on, or choose another folder"
        )
    fetched(teacher)
    spec = DEFAULT_MODEL if teacher == options.DEFAULT else teacher
    run = _prepared(spec, out, config)
    if only_prepare:
        note("The student is cut and the text is written; go on with --resume")
        return
    result = start(run, resume=resume)
    if result.stopped:
        note(f"Stopped after step {result.step} ({result.stopped}); go on with --resume")
        raise typer.Exit(RESUMABLE)
    if result.rank == 0:
        found = distillation.report(run, config)
        print_json(found) if as_json else _show(found)
        note(
            f"`heddle serve {out}` serves the student; {out / distillation.REPORT} has all figures"
        )


def _prepared(teacher: str, out: Path, config: "DistillConfig") -> "Run":
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from heddle.train.distill import prepare

    columns = (TextColumn("tokens written"), BarColumn(), MofNCompleteColumn())
    columns = (*columns, TimeRemainingColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task("text", total=config.text.num_tokens)
        return prepare(teacher, out, config, tell=lambda n: bar.update(task, completed=n))


def _show(found: dict[str, Any]) -> None:
    """Write the figures for a person: a column for each way to run the student."""
    ways = [("before", each) for each in found["before"]]
    ways += [("after", each) for each in found["after"]]
    table = Table("student")
    for when, way in ways:
        table.add_column(f"{when}, {way['student_loops']} loops", justify="right")
    for name in ways[0][1]["text"]:
        table.add_row(name.replace("_", " "), *(f"{way['text'][name]:.4g}" for _, way in ways))
    for number, task in enumerate(ways[0][1]["tasks"]):
        of_task = [way["tasks"][number] for _, way in ways]
        for who in ("teacher", "student"):
            cells = [_interval(each, f"{who}_accuracy", who) for each in of_task]
            table.add_row(f"{task['task']}: {who}", *cells)
        table.add_row(
            f"{task['task']}: kept",
            *(_interval(each, "retention", "retention") for each in of_task),
        )
    screen.print(f"{found['teacher_params']:,} parameters to {found['student_params']:,}")
    screen.print(table)


def _interval(found: dict[str, Any], name: str, of: str) -> str:
    if found[name] is None:
        return "-"
    return f"{found[name]:.1%} ({found[f'{of}_low']:.1%} to {found[f'{of}_high']:.1%})"
