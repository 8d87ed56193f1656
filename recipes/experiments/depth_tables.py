"""What the page of the experiment `depth` shows of its trials. Called by `depth`."""

from collections.abc import Callable, Sequence
from itertools import product
from statistics import fmean

from heddle.evals.stats import Interval, difference
from heddle.train.chart import Lines
from recipes.experiments.experiment import Figures, Found, Table, over_seeds

TASKS = ("cups", "s3_product", "weekday", "affine")
LOOPS = (1, 2, 4, 6, 8, 12, 16, 24, 32)
TRAINED_LOOPS = 8  # and steps: the longest questions of the training
ASKED_STEPS = (4, 8)
WAYS = {
    "always": f"{TRAINED_LOOPS} loops for every token",
    "selective": "each token decides",
    "random": "the same loops, other tokens",
    "one loop": "one loop for every token",
}


def tables(found: Found) -> list[Table]:
    """Return what the page shows."""
    return [_by_loops(found), _against(found), _stable(found), _selection(found), _networks(found)]


def panels(found: Found) -> list[Lines]:
    """Return accuracy by loops, and by work with the networks of one pass beside it."""
    return [
        Lines(
            title=f"Questions of {TRAINED_LOOPS} steps",
            x_label="loops",
            y_label="held-out questions answered",
            lines={
                task: [(count, fmean(_right(found, task, loops=count))) for count in LOOPS]
                for task in TASKS
            },
            is_log_x=True,
            is_share=True,
        ),
        *(
            Lines(
                title=f"{task}, by work",
                x_label="FLOPs a token",
                y_label="held-out questions answered",
                lines={
                    "loops": [_by_work(found, task, "looped", count) for count in LOOPS],
                    "one pass": [_by_work(found, task, "one-pass", 1)],
                    "deeper": [_by_work(found, task, "deeper", 1)],
                },
                is_log_x=True,
                is_share=True,
            )
            for task in TASKS
        ),
    ]


def _answer(figures: Figures, loops: int, steps: int = TRAINED_LOOPS) -> Figures:
    return figures["by_loops"][str(steps)][str(loops)]


def _right(
    found: Found, task: str, way: str = "looped", *, loops: int = 1, steps: int = TRAINED_LOOPS
) -> list[float]:
    return over_seeds(found, f"{task}-{way}", lambda f: _answer(f, loops, steps)["share"])


def _by_work(found: Found, task: str, way: str, loops: int) -> tuple[float, float]:
    flops = over_seeds(found, f"{task}-{way}", lambda f: _answer(f, loops)["flops"])
    return fmean(flops), fmean(_right(found, task, way, loops=loops))


def _by_loops(found: Found) -> Table:
    rows = [
        [task, str(steps)]
        + [f"{100 * fmean(_right(found, task, loops=n, steps=steps)):.0f}" for n in LOOPS]
        for task, steps in product(TASKS, ASKED_STEPS)
    ]
    title = "Right answers by loops, percent, mean of the seeds"
    return Table(title, ["task", "steps", *map(str, LOOPS)], rows)


def _against(found: Found) -> Table:
    rows = []
    for task in TASKS:
        looped = _right(found, task, loops=TRAINED_LOOPS)
        others = [_right(found, task, way) for way in ("one-pass", "deeper")]
        gains = [points(difference(looped, other)) for other in others]
        rows.append([task, *map(each, (looped, *others)), *gains])
    return Table(
        f"Questions of {TRAINED_LOOPS} steps, percent right, seed by seed; gains in points with "
        "their 95% intervals over seeds",
        [
            "task",
            f"{TRAINED_LOOPS} loops",
            "one pass",
            "deeper, one pass",
            "gain over one pass",
            "gain over deeper",
        ],
        rows,
    )


def _stable(found: Found) -> Table:
    def lost(figures: Figures, steps: int) -> float:
        right = [_answer(figures, n, steps)["share"] for n in LOOPS if n >= TRAINED_LOOPS]
        return max(right) - min(right)

    rows = [
        [task, *(each(_over(found, task, lambda f, s=s: lost(f, s))) for s in ASKED_STEPS)]
        for task in TASKS
    ]
    return Table(
        f"From {TRAINED_LOOPS} to {LOOPS[-1]} loops: the best less the worst, points, seed by seed",
        ["task", *(f"{steps} steps" for steps in ASKED_STEPS)],
        rows,
    )


def _selection(found: Found) -> Table:
    def over(task: str, way: str, field: str) -> list[float]:
        return _over(found, task, lambda figures: figures["selection"][way][field])

    rows = []
    for task, (way, said) in product(TASKS, WAYS.items()):
        right, always = over(task, way, "share"), over(task, "always", "share")
        loops = fmean(over(task, way, "loops"))
        rows.append(
            [
                task,
                said,
                each(right),
                "" if way == "always" else points(difference(right, always)),
                f"{loops:.2f}",
                f"{loops / TRAINED_LOOPS:.0%}",
                f"{fmean(over(task, way, 'flops')) / 1e6:.2f}",
            ]
        )
    return Table(
        f"Questions of 2 to {TRAINED_LOOPS} steps: who thinks",
        [
            "task",
            "loops",
            "right, %",
            "gain over always",
            "loops a token",
            "share",
            "MFLOPs a token",
        ],
        rows,
    )


def _networks(found: Found) -> Table:
    rows = []
    for way, loops in (("looped", 1), ("looped", TRAINED_LOOPS), ("one-pass", 1), ("deeper", 1)):
        figures = found[f"{TASKS[0]}-{way}"][0]
        rows.append(
            [
                f"{way}, {loops} loops" if way == "looped" else way,
                f"{figures['parameters']:,}",
                f"{figures['tokens']:,}",
                f"{_answer(figures, loops)['flops'] / 1e6:.2f}",
                f"{fmean(_over(found, TASKS[0], lambda f: f['seconds'], way)):.0f}",
            ]
        )
    columns = ["network", "parameters", "tokens of training", "MFLOPs a token", "seconds a trial"]
    return Table(f"The networks, measured on {TASKS[0]}", columns, rows)


def _over(
    found: Found, task: str, value: Callable[[Figures], float], way: str = "looped"
) -> list[float]:
    return over_seeds(found, f"{task}-{way}", value)


def each(shares: Sequence[float]) -> str:
    """Return shares in percent, seed by seed."""
    return " / ".join(f"{100 * share:.0f}" for share in shares)


def points(interval: Interval) -> str:
    """Return a difference of shares and its interval, in points."""
    return f"{100 * interval.value:+.0f} ({100 * interval.low:+.0f} to {100 * interval.high:+.0f})"
