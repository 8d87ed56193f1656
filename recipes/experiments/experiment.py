"""An experiment: every arm with every seed, each in its own process, kept as it ends.

    python -m recipes.experiments.depth                 # the short form, two trials at a time
    python -m recipes.experiments.depth --full          # the long one
    python -m recipes.experiments.depth --write         # also puts what was found into docs

A trial that has ended is not run again, so an interrupted experiment goes on where it stopped.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from heddle.train.chart import Lines, Shares, draw
from heddle.weights.atomic import write_text

DOCS = Path("docs/experiments")
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
SEEDS = (0, 1, 2)

Figures = dict[str, Any]  # what a trial found, as JSON
Found = Mapping[str, Mapping[int, Figures]]  # by arm and seed


class Table(NamedTuple):
    """A table of a report; every cell is text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One question, the arms that answer it, and how what they found is shown.

    Attributes:
        name: of its module here, its page and its folder of runs.
        arms: by name, what a trial does: from seed, form and a folder of its own to figures.
        tables, panels: what the page shows of the figures of all trials.
    """

    name: str
    title: str
    arms: Mapping[str, Callable[[int, bool, Path], Figures]]
    tables: Callable[[Found], Sequence[Table]]
    panels: Callable[[Found], Sequence[Lines | Shares]]
    seeds: Sequence[int] = SEEDS


def run(experiment: Experiment) -> None:
    """Be the command line of an experiment's module."""

    def main(
        arm: Annotated[
            list[str] | None, typer.Option(help="Only this arm; may be repeated.")
        ] = None,
        seed: Annotated[list[int] | None, typer.Option(help="Only this seed.")] = None,
        full: Annotated[bool, typer.Option("--full", help="The long form.")] = False,
        jobs: Annotated[int, typer.Option(help="Trials at a time.", min=1)] = 2,
        folder: Annotated[Path, typer.Option(help="Where trials go.")] = Path("runs/experiments"),
        write: Annotated[bool, typer.Option("--write", help="Put the figures into docs.")] = False,
        trial: Annotated[bool, typer.Option("--trial", hidden=True)] = False,
    ) -> None:
        arms = arm or list(experiment.arms)
        if unknown := set(arms) - set(experiment.arms):
            raise typer.BadParameter(f"{unknown} are not among {list(experiment.arms)}")
        seeds = seed or list(experiment.seeds)
        home = folder / experiment.name / ("full" if full else "short")
        if trial:
            _run_trial(experiment, arms[0], seeds[0], full=full, home=home)
            return
        if not _run_all(experiment, [(a, s) for s in seeds for a in arms], full, jobs, folder):
            raise typer.Exit(1)
        found = collect(experiment, home)
        if any(len(found.get(each, {})) < len(experiment.seeds) for each in experiment.arms):
            Console().print(f"There are tables once every arm has every seed; so far: {home}")
            return
        for table in experiment.tables(found):
            Console().print(as_markdown(table), markup=False, highlight=False)
        if write:
            write_page(experiment, found, "full" if full else "short")

    typer.run(main)


def _run_trial(experiment: Experiment, arm: str, seed: int, *, full: bool, home: Path) -> None:
    started = time.perf_counter()
    figures = experiment.arms[arm](seed, full, home / f"{arm}-{seed}")
    figures["seconds"] = round(time.perf_counter() - started, 1)
    write_text(home / f"{arm}-{seed}.json", json.dumps(figures, indent=1) + "\n")


def _run_all(
    experiment: Experiment, trials: Sequence[tuple[str, int]], full: bool, jobs: int, folder: Path
) -> bool:
    """Run what has not ended yet; return whether all of it has now."""
    home = folder / experiment.name / ("full" if full else "short")
    home.mkdir(parents=True, exist_ok=True)
    todo = [(arm, seed) for arm, seed in trials if not (home / f"{arm}-{seed}.json").exists()]
    console = Console(stderr=True)

    def one(arm: str, seed: int) -> bool:
        command = [sys.executable, "-m", f"recipes.experiments.{experiment.name}", "--trial"]
        command += ["--arm", arm, "--seed", str(seed), "--folder", str(folder)]
        started = time.perf_counter()
        with (home / f"{arm}-{seed}.log").open("w", encoding="utf-8") as log:
            code = subprocess.run(
                [*command, *(["--full"] if full else [])],
                env=os.environ
                | {"OMP_NUM_THREADS": "1"},  # so small a network gains nothing by more
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
        verdict = "done" if code == 0 else f"failed, see {log.name}"
        console.print(f"{arm}, seed {seed}: {verdict} ({time.perf_counter() - started:.0f} s)")
        return code == 0

    with ThreadPoolExecutor(jobs) as pool:
        return all(list(pool.map(lambda each: one(*each), todo)))


def collect(experiment: Experiment, home: Path) -> dict[str, dict[int, Figures]]:
    """Return the figures of every trial that has ended."""
    found: dict[str, dict[int, Figures]] = {}
    for arm in experiment.arms:
        for seed in experiment.seeds:
            path = home / f"{arm}-{seed}.json"
            if path.exists():
                found.setdefault(arm, {})[seed] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write_page(experiment: Experiment, found: Found, form: str, docs: Path = DOCS) -> None:
    """Write figures and picture, and put the tables into the experiment's page.

    The page is written by hand, around the two marks that the tables go between.
    """
    page = docs / f"{experiment.name}.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    write_text(page, f"{before}{BEGIN}\n\n{figures_block(experiment, found)}\n\n{END}{after}")
    figures = {"experiment": experiment.name, "form": form, "found": found}
    write_text(docs / f"{experiment.name}.json", json.dumps(figures, indent=1) + "\n")
    picture = draw(experiment.panels(found), title=experiment.title)
    write_text(docs / f"{experiment.name}.svg", picture)


def read_page(experiment: Experiment, docs: Path = DOCS) -> Found:
    """Return the figures that stand in docs."""
    kept = json.loads((docs / f"{experiment.name}.json").read_text(encoding="utf-8"))["found"]
    return {arm: {int(seed): each for seed, each in seeds.items()} for arm, seeds in kept.items()}


def figures_block(experiment: Experiment, found: Found) -> str:
    """Return the tables as a page has them."""
    return "\n\n".join(as_markdown(table) for table in experiment.tables(found))


def as_markdown(table: Table) -> str:
    """Return a table in Markdown, under its title."""
    lines = [f"**{table.title}**", "", f"| {' | '.join(table.columns)} |"]
    lines.append("|" + "---|" * len(table.columns))
    lines += [f"| {' | '.join(row)} |" for row in table.rows]
    return "\n".join(lines)


def over_seeds(found: Found, arm: str, value: Callable[[Figures], float]) -> list[float]:
    """Return one figure of an arm's trials, in the order of their seeds."""
    return [value(found[arm][seed]) for seed in sorted(found[arm])]
