"""What the page of the experiment `flash` shows of its trials. Called by `flash`."""

from collections.abc import Callable
from statistics import fmean

from heddle.evals.stats import Interval, difference, mean
from heddle.train.chart import Lines
from recipes.experiments.experiment import Figures, Found, Table, over_seeds
from recipes.experiments.flash_answers import ASKED

SAID = {
    "teacher": "the teacher",
    "cut": "cut out of it, not trained",
    "all-terms": "**all terms**",
    "no-output": "without KL(teacher, student)",
    "no-reverse": "without KL(student, teacher)",
    "no-cluster": "without cluster mass",
    "no-halting": "without halting",
    "no-relations": "without relations",
    "logits-alone": "KL(teacher, student) alone",
    "hard-labels": "the teacher's text, no teacher",
    "real-data": "from scratch on real data, as many tokens",
    "as-the-teacher": "from scratch, trained as the teacher was",
}
TEXT_FIGURES = {
    "kl": ".4f",
    "top1_agreement": ".1%",
    "routing_agreement": ".1%",
    "routing_chance": ".0%",
}


def used(figures: Figures, task: str) -> dict[str, float]:
    """Return a task's result at the depth that the network is measured at."""
    found = figures["tasks"][task]
    return found["by_loops"][found["loops"] - 1]


def chosen(figures: Figures, task: str) -> dict[str, float]:
    """Return a task's result at the depth that each token chose."""
    return figures["tasks"][task]["auto"]


Look = Callable[[Figures, str], dict[str, float]]


def above_chance(figures: Figures, look: Look = used) -> float:
    """Return the mean over tasks of what is right beyond guessing."""
    tasks = figures["tasks"]
    return fmean(
        max(0.0, look(figures, name)["accuracy"] - tasks[name]["chance"]) for name in tasks
    )


def flops(figures: Figures, look: Look = used) -> float:
    """Return the mean over tasks of the FLOPs of an answer."""
    return fmean(look(figures, name)["flops"] for name in figures["tasks"])


def shares(
    found: Found, arm: str, value: Callable[[Figures, Look], float], look: Look = used
) -> list[float]:
    """Return, seed by seed, an arm's figure as a share of its teacher's."""
    return [
        value(found[arm][seed], look) / value(found["teacher"][seed], look)
        for seed in sorted(found[arm])
    ]


def tables(found: Found) -> list[Table]:
    """Return what stands on the page, of the seeds with which every arm has ended."""
    seeds = set.intersection(*(set(found.get(arm, ())) for arm in SAID))
    if not seeds:
        return []
    ended = {arm: {seed: found[arm][seed] for seed in sorted(seeds)} for arm in SAID}
    return [_kept(ended), _by_task(ended), _differences(ended), _on_auto(ended)]


def _kept(found: Found) -> Table:
    rows = []
    for arm, trials in found.items():
        kept = shares(found, arm, above_chance)
        texts = [trial.get("text", {}) for trial in trials.values()]
        rows.append(
            [
                SAID[arm],
                percent(mean(kept)),
                " / ".join(f"{share:.1%}" for share in kept),
                f"{fmean(shares(found, arm, flops)):.0%}",
                f"{fmean(shares(found, arm, lambda figures, _: figures['params'])):.0%}",
                *(
                    f"{fmean(text[name] for text in texts):{form}}" if all(texts) else "-"
                    for name, form in TEXT_FIGURES.items()
                ),
            ]
        )
    columns = ["network", "quality kept", "seed by seed", "FLOPs an answer", "parameters"]
    columns += ["KL", "same token", "same cluster", "by chance"]
    return Table("Above-chance quality, of the teacher's, and the work of an answer", columns, rows)


def _by_task(found: Found) -> Table:
    chances = {
        task: fmean(trial["tasks"][task]["chance"] for trial in found["teacher"].values())
        for task in ASKED
    }
    rows = [["chance", *(f"{chance:.0%}" for chance in chances.values())]]
    for arm, trials in found.items():
        cells = []
        for task in ASKED:
            right = " / ".join(f"{used(trial, task)['accuracy']:.1%}" for trial in trials.values())
            loops = "/".join(str(trial["tasks"][task]["loops"]) for trial in trials.values())
            cells.append(f"{right} at {loops}")
        rows.append([SAID[arm], *cells])
    return Table("Right answers, seed by seed, and the loops they took", ["network", *ASKED], rows)


def _differences(found: Found) -> Table:
    rows = []
    for arm in found:
        if arm in ("teacher", "all-terms"):
            continue
        row = [SAID[arm]]
        for look in (used, chosen):
            both = (shares(found, name, above_chance, look) for name in (arm, "all-terms"))
            row.append(points(difference(*both)))
        kl = (over_seeds(found, name, _kl) for name in (arm, "all-terms"))
        row.append("{:+.4f} ({:+.4f} to {:+.4f})".format(*difference(*kl)))
        routes = (over_seeds(found, name, _routing) for name in (arm, "all-terms"))
        rows.append([*row, points(difference(*routes))])
    columns = ["network", "quality kept", "quality kept, on auto", "KL", "same cluster"]
    return Table("Less all terms: mean difference over seeds and its 95% interval", columns, rows)


def _on_auto(found: Found) -> Table:
    rows = [
        [
            SAID[arm],
            percent(mean(shares(found, arm, above_chance, chosen))),
            f"{fmean(shares(found, arm, flops, chosen)):.0%}",
            " / ".join(f"{loops:.1f}" for loops in over_seeds(found, arm, _mean_loops)),
        ]
        for arm in found
    ]
    columns = ["network", "quality kept", "FLOPs an answer", "loops a token, seed by seed"]
    return Table("The same with the dial on auto, of the teacher's on auto", columns, rows)


def _mean_loops(figures: Figures) -> float:
    return fmean(chosen(figures, task)["loops"] for task in figures["tasks"])


def _kl(figures: Figures) -> float:
    return figures["text"]["kl"]


def _routing(figures: Figures) -> float:
    return figures["text"]["routing_agreement"]


def percent(interval: Interval) -> str:
    """Return a share with its interval."""
    return f"{interval.value:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def points(interval: Interval) -> str:
    """Return a difference of shares, in points, with its interval."""
    value, low, high = (100 * each for each in interval[:3])
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def panels(found: Found) -> list[Lines]:
    """Return each task's answers by their work, the mean over seeds, a point for each depth."""
    drawn = {
        "teacher": "teacher",
        "all-terms": "student",
        "hard-labels": "text alone",
        "cut": "cut",
    }
    return [
        Lines(
            title=task,
            x_label="FLOPs an answer",
            y_label="right answers, a point for each number of loops",
            lines={said: _by_work(found, arm, task) for arm, said in drawn.items()},
            is_log_x=True,
            is_share=True,
        )
        for task in ASKED
    ]


def _by_work(found: Found, arm: str, task: str) -> list[tuple[float, float]]:
    trials = [figures["tasks"][task]["by_loops"] for figures in found[arm].values()]
    return [
        (fmean(each["flops"] for each in depth), fmean(each["accuracy"] for each in depth))
        for depth in zip(*trials, strict=True)
    ]
