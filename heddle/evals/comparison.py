"""Tables that set models side by side in what they answered. `report` writes them down."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from heddle.evals.figures import Summary, is_perplexity, paired, summarise
from heddle.evals.records import Record, Settings
from heddle.evals.stats import Interval
from heddle.tasks.evaluation import EvalSet


class Cell(NamedTuple):
    """A figure, what belongs to it and, where it is a share, its interval for a picture."""

    text: str
    detail: str = ""
    share: Interval | None = None
    chance: float | None = None


NOTHING = Cell("–")


class Table(NamedTuple):
    """A table under a heading, and what one must know to read it."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


class Run(NamedTuple):
    """All that one model answered of one set."""

    settings: Settings
    records: dict[str, Record]


class _Row(NamedTuple):
    eval_set: EvalSet
    runs: Mapping[str, Run]  # by model
    summaries: Mapping[str, Summary]


def compare(runs: Sequence[Run], sets: Sequence[EvalSet]) -> list[Table]:
    """Return the tables of some runs; the first model is the one that others are set against.

    A model stands for itself at each depth of thinking. Of several runs of one model on one set,
    as after a change of its weights, the last counts.
    """
    models = list(dict.fromkeys(label(run.settings) for run in runs))
    rows = [row for eval_set in sets if (row := _row(eval_set, models, runs)).summaries]
    tables = [_headlines(rows, models), _further(rows, models), _compute(rows, models)]
    tables += [_groups(row, models) for row in rows]
    return [table for table in tables if table.rows]


def label(settings: Settings) -> str:
    """Return what to call a model at a depth of thinking."""
    if settings.think is None:
        return settings.model
    depths = {"auto": "loops as needed", 1: "1 loop"}
    return f"{settings.model}, {depths.get(settings.think, f'{settings.think} loops')}"


def _row(eval_set: EvalSet, models: Sequence[str], runs: Sequence[Run]) -> _Row:
    mine = {label(run.settings): run for run in runs if run.settings.set == eval_set.name}
    summaries = {
        model: summary
        for model in models
        if model in mine and (summary := summarise(eval_set, mine[model].records.values()))
    }
    return _Row(eval_set, mine, summaries)


def _headlines(rows: Sequence[_Row], models: Sequence[str]) -> Table:
    first, *others = models
    columns = [
        "Set",
        "Metric",
        "Chance",
        *models,
        *(f"{other} against {first}" for other in others),
    ]
    filled = []
    for row in rows:
        metric, chance = row.eval_set.metric, row.eval_set.chance
        cells = [
            Cell(row.eval_set.name),
            Cell(_words(metric)),
            Cell("" if chance is None else value_text(metric, chance)),
        ]
        cells += [_figure(row, model) for model in models]
        cells += [_difference(row, first, other) for other in others]
        filled.append(cells)
    note = (
        "Values with 95% intervals and the number of questions. Differences are paired: of the "
        "questions that both models answered, in points; of perplexities the quotient."
    )
    return Table("Figures", note, columns, filled)


def _figure(row: _Row, model: str) -> Cell:
    summary = row.summaries.get(model)
    if summary is None:
        return NOTHING
    cell = _of(row.eval_set, summary.headline)
    failed = f", {summary.num_failed} failed" if summary.num_failed else ""
    return cell._replace(detail=cell.detail + failed)


def _of(eval_set: EvalSet, found: Interval) -> Cell:
    metric = eval_set.metric
    return Cell(
        value_text(metric, found.value),
        f"{bounds_text(metric, found)}, n = {found.n}",
        share=None if is_perplexity(metric) else found,
        chance=eval_set.chance,
    )


def _difference(row: _Row, first: str, other: str) -> Cell:
    if first not in row.summaries or other not in row.summaries:
        return NOTHING
    metric = row.eval_set.metric
    found = paired(metric, row.runs[first].records, row.runs[other].records)
    if found is None:
        return Cell("no question in common")
    if is_perplexity(metric):
        return Cell(f"×{found.value:.3f}", f"{found.low:.3f} to {found.high:.3f}")
    value, low, high = (100 * bound for bound in found[:3])
    return Cell(f"{value:+.1f}", f"{low:+.1f} to {high:+.1f}")


def _further(rows: Sequence[_Row], models: Sequence[str]) -> Table:
    filled = []
    for row in rows:
        every = dict.fromkeys(name for each in row.summaries.values() for name in each.figures)
        for metric in every:
            if metric != row.eval_set.metric:
                cells = [_plain(metric, row.summaries.get(model)) for model in models]
                filled.append([Cell(row.eval_set.name), Cell(_words(metric)), *cells])
    return Table("Further metrics", "", ["Set", "Metric", *models], filled)


def _plain(metric: str, summary: Summary | None) -> Cell:
    if summary is None or metric not in summary.figures:
        return NOTHING
    found = summary.figures[metric]
    return Cell(value_text(metric, found.value), bounds_text(metric, found))


def _compute(rows: Sequence[_Row], models: Sequence[str]) -> Table:
    filled = []
    for row in rows:
        told = [row.summaries.get(model) for model in models]
        if any(summary and summary.flops is not None for summary in told):
            filled.append([Cell(row.eval_set.name), *map(_spent, told)])
    note = (
        "GFLOPs a question and mean loops, of tokens that were computed; those that came from a "
        "cache took nothing."
    )
    return Table("What it took", note, ["Set", *models], filled)


def _spent(summary: Summary | None) -> Cell:
    if summary is None or summary.flops is None:
        return NOTHING
    return Cell(f"{summary.flops / 1e9:,.1f}", f"{summary.mean_loops:.2f} loops")


def _groups(row: _Row, models: Sequence[str]) -> Table:
    names = {name for each in row.summaries.values() for name in each.groups}
    ordered = sorted(names, key=lambda name: (len(name), name) if name.isdecimal() else (99, name))
    filled = []
    for name in ordered if len(names) > 1 else ():
        cells = [Cell(name)]
        for model in models:
            summary = row.summaries.get(model)
            found = summary.groups.get(name) if summary else None
            cells.append(NOTHING if found is None else _of(row.eval_set, found))
        filled.append(cells)
    title = f"{row.eval_set.name}: {_words(row.eval_set.metric)} by part"
    return Table(title, "", ["Part", *models], filled)


def bounds_text(metric: str, found: Interval) -> str:
    """Return an interval as a person reads it."""
    return f"{value_text(metric, found.low)} to {value_text(metric, found.high)}"


def value_text(metric: str, value: float) -> str:
    """Return a share in percent, a perplexity as it is."""
    if math.isinf(value):
        return "∞"
    return f"{value:.2f}" if is_perplexity(metric) else f"{100 * value:.1f}%"


def _words(metric: str) -> str:
    return metric.replace("_", " ")
