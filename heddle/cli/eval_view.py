"""What `eval` shows: sets, progress, figures; and a figure's fields for other programs."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from heddle.cli.console import err, note, out, print_json
from heddle.evals.comparison import bounds_text, value_text
from heddle.evals.figures import Summary, is_perplexity
from heddle.evals.records import Record
from heddle.evals.stats import Interval
from heddle.tasks.evaluation import EvalSet


def show_sets(sets: Sequence[EvalSet], *, as_json: bool) -> None:
    """List sets with what they measure and what they need."""
    if as_json:
        fields = ("name", "title", "metric", "chance", "files", "usual_limit", "source", "licence")
        print_json([{name: getattr(each, name) for name in fields} for each in sets])
        return
    table = Table("Set", "What it asks", "Metric", "Needs", box=None, pad_edge=False)
    for each in sets:
        table.add_row(each.name, each.title, each.metric, ", ".join(each.files))
    out.print(table)


@contextmanager
def progress(
    eval_set: EvalSet, model: str, limit: int | None
) -> Iterator[Callable[[Record], None]]:
    """Show questions answered, the figure so far and the time left; call it with each record."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[found]}"),
    )
    total = limit or eval_set.usual_limit
    amount = weight = 0.0
    num_failed = 0
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(f"{eval_set.name} · {model}", total=total, found="")

        def on_answer(record: Record) -> None:
            nonlocal amount, weight, num_failed
            if record.error is None:
                amount += record.values[eval_set.metric][0]
                weight += record.values[eval_set.metric][1]
            else:
                num_failed += 1
            mean = amount / weight if weight else 0.0
            value = math.exp(mean) if is_perplexity(eval_set.metric) else mean
            found = value_text(eval_set.metric, value)
            failed = f", {num_failed} failed" if num_failed else ""
            bar.update(task, advance=1, found=(found if weight else "") + failed)

        yield on_answer


def show_figures(found: Sequence[tuple[str, Summary]]) -> None:
    """Print a table of what models reached in sets, and say what failed."""
    table = Table("Set", "Model", "Metric", "Value", "95%", "n", box=None, pad_edge=False)
    for model, summary in found:
        for metric, each in summary.figures.items():
            value, bounds = value_text(metric, each.value), bounds_text(metric, each)
            table.add_row(summary.eval_set.name, model, metric, value, bounds, str(each.n))
    out.print(table)
    for model, summary in found:
        if summary.num_failed:
            note(
                f"{summary.eval_set.name}: {model} failed on {summary.num_failed} questions, which "
                "are in no figure; the same command asks them again",
                style="yellow",
            )


def as_fields(summary: Summary) -> dict[str, Any]:
    """Return the fields of `--json`, described in docs/cli.md."""
    return {
        "task": summary.eval_set.name,
        "metric": summary.eval_set.metric,
        **_interval(summary.headline),
        "chance": summary.eval_set.chance,
        "num_failed": summary.num_failed,
        "metrics": {name: _interval(each) for name, each in summary.figures.items()},
        "groups": {name: _interval(each) for name, each in summary.groups.items()},
        "mean_loops": summary.mean_loops,
        "flops_per_question": summary.flops,
    }


def _interval(found: Interval) -> dict[str, float | None]:
    """Return an interval for JSON, which has no infinity."""
    named = found._asdict()
    return {name: each if math.isfinite(each) else None for name, each in named.items()}
