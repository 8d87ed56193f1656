"""`heddle eval`: put sets of questions to models, and set models side by side."""

from pathlib import Path
from typing import Annotated

import typer

from heddle.cli import options
from heddle.cli.console import note, print_json
from heddle.errors import ConfigError, DataError

STOPPED = 75  # stopped early, saved and resumable, as `heddle train` says it

Sets = Annotated[
    list[str] | None,
    typer.Argument(help="Sets to ask, as --list names them.", metavar="SET...", show_default=False),
]
Models = Annotated[
    list[str],
    typer.Option(help=f"{options.MODEL_HELP[:-1]}, or a server's address; may be repeated."),
]
Data = Annotated[
    Path | None,
    typer.Option(help="The folder with the files of sets that need some; docs/eval.md has them."),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Ask the first so many questions of each set.", show_default="all"),
]
Think = Annotated[
    str | None,
    typer.Option(
        metavar="auto|N",
        help="Passes through the thinking block: so many for each token, or as each needs.",
        show_default="the model's",
    ),
]
Out = Annotated[Path, typer.Option(help="Where answers are kept; a second start goes on there.")]
AtOnce = Annotated[int, typer.Option(min=1, help="Questions under way at any one time.")]
List = Annotated[bool, typer.Option("--list", help="List the sets and leave.")]
Report = Annotated[
    Path | None,
    typer.Option(
        metavar="OUT",
        help="Compare all that is kept in this folder: writes report.md and report.html there.",
    ),
]


def evaluate_models(
    sets: Sets = None,
    model: Models = [options.DEFAULT],  # noqa: B006 - typer copies it
    data: Data = None,
    limit: Limit = None,
    think: Think = None,
    out: Out = Path("runs/eval"),
    at_once: AtOnce = 16,
    threads: options.Threads = None,
    context_length: options.ContextLength = None,
    dtype: options.Dtype = "float32",
    kernels: options.Kernels = "auto",
    list_sets: List = False,
    report: Report = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure models on sets of questions, with 95% intervals."""
    from heddle.cli.eval_view import as_fields, progress, show_figures, show_sets
    from heddle.evals.run import evaluate
    from heddle.tasks.sets import SETS, find_set

    if list_sets:
        show_sets(list(SETS.values()), as_json=as_json)
        return
    if report is not None:
        write_report(report)
        return
    if not sets:
        raise ConfigError("say which sets to ask: `heddle eval --list` names them")
    asked = [find_set(name) for name in sets]
    for each in asked:
        each.questions(data, limit=limit)  # tells of a missing folder before a model is loaded
    from heddle.cli.eval_subject import questioned

    loops = None if think is None else options.loops(think)
    config = options.engine_config(
        threads=threads, context_length=context_length, dtype=dtype, kernels=kernels
    )
    found = []
    try:
        for spec in model:
            with questioned(spec, config, loops) as subject:
                for each in asked:
                    with progress(each, subject.name, limit) as on_answer:
                        how = {"data": data, "limit": limit, "out": out, "num_at_once": at_once}
                        summary = evaluate(each, subject, **how, on_answer=on_answer)
                    found.append((subject.name, summary))
                    if as_json:
                        print_json({**as_fields(summary), "model": subject.name, "think": loops})
    except KeyboardInterrupt:
        note(f"Stopped; what was answered is in {out}, and the same command goes on from there.")
        raise typer.Exit(STOPPED) from None
    if not as_json:
        show_figures(found)


def write_report(folder: Path) -> None:
    """Compare what is kept in a folder, in two files beside it. Raises DataError if nothing is."""
    from heddle.evals.comparison import Run, compare
    from heddle.evals.records import read_runs
    from heddle.evals.report import as_html, as_markdown
    from heddle.tasks.sets import SETS, find_set
    from heddle.weights.atomic import write_text

    runs = [Run(*each) for each in read_runs(folder)]
    if not runs:
        raise DataError(f"{folder} holds no answers: `heddle eval SET --out {folder}` puts some in")
    names = sorted(
        {run.settings.set for run in runs}, key=[*SETS, *(r.settings.set for r in runs)].index
    )
    tables = compare(runs, [find_set(name) for name in names])
    for name, text in (("report.md", as_markdown(tables)), ("report.html", as_html(tables))):
        write_text(folder / name, text)
        print(folder / name)
