"""What `clusters` found, as tables and pictures."""

from collections.abc import Mapping, Sequence
from itertools import permutations
from statistics import fmean
from typing import NamedTuple

from heddle.evals.stats import Interval, difference, mean
from heddle.model.config import CLUSTERS
from heddle.train.chart import Lines, Shares
from recipes.experiments.domain_training import DOMAINS
from recipes.experiments.experiment import Figures, Found, Table

TOLERANCE = 0.0025  # by how much a validation loss may be higher and still count as equal
WITHOUT = "price 0"
SAID = {
    "steered": "no token may choose it",
    "silent": "its channels give nothing",
    "random": "as many random channels give nothing",
}

Matrix = Sequence[Sequence[float]]  # a cluster a row, a domain a column: nats added to the loss


class Damage(NamedTuple):
    """What clusters take from their own domains, and from the others: mean nats a byte."""

    own: float
    others: float

    def __str__(self) -> str:
        """Say how many times more their own domains lose; beyond a hundred there is only noise."""
        if self.own > 100 * max(self.others, 0.0):
            return ">100"
        return f"{self.own / self.others:.1f}"


def damage(matrix: Matrix, place: Sequence[int] | None = None) -> Damage:
    """Split a matrix; `place` gives each cluster's own domain, the one of its number if None."""
    own = list(place or range(len(matrix)))
    mine = [row[own[cluster]] for cluster, row in enumerate(matrix)]
    total = sum(map(sum, matrix))
    return Damage(fmean(mine), (total - sum(mine)) / (len(matrix) * (len(matrix) - 1)))


def best_damage(matrix: Matrix) -> Damage:
    """Split a matrix when each cluster is given a domain as favourably as possible."""
    return max(damage(matrix, place) for place in permutations(range(len(matrix))))


def mean_matrix(trials: Sequence[Figures], kind: str) -> Matrix:
    """Return the mean matrix of some trials."""
    return [
        [fmean(values) for values in zip(*rows, strict=True)]
        for rows in zip(*(figures[kind] for figures in trials), strict=True)
    ]


def of_arm(found: Found, arm: str) -> list[Figures]:
    """Return an arm's trials in the order of their seeds."""
    return [found[arm][seed] for seed in sorted(found[arm])]


def readings(trials: Sequence[Figures], field: str) -> list[float]:
    """Return a field of the test readings, averaged over the domains, of each trial."""
    return [fmean(each[field] for each in figures["test"].values()) for figures in trials]


def by_stage(found: Found) -> dict[str, list[Figures]]:
    """Return what the networks that went through each second stage are like, seed by seed."""
    trials = of_arm(found, "labels")
    return {name: [figures["second"][name] for figures in trials] for name in trials[0]["second"]}


def equal_and_cheapest(trials_of: Mapping[str, Sequence[Figures]]) -> str:
    """Return the stage with the fewest expert FLOPs whose validation loss is as good as without."""

    def validation(name: str) -> float:
        return fmean(figures["validation_loss"] for figures in trials_of[name])

    highest = (1 + TOLERANCE) * validation(WITHOUT)
    equal = [name for name in trials_of if validation(name) <= highest]
    return min(equal, key=lambda name: fmean(readings(trials_of[name], "expert_flops")))


def matrix_table(found: Found, arm: str) -> Table:
    """Show the matrix of an arm, whose clusters are taken out of the choice."""
    rows = [
        [cluster, *(f"{value:+.3f}" for value in row)]
        for cluster, row in zip(CLUSTERS, mean_matrix(of_arm(found, arm), "steered"), strict=True)
    ]
    title = (
        f"Loss added (nats a byte) to each domain without each cluster; arm {arm}, mean of seeds"
    )
    return Table(title, ["without", *DOMAINS], rows)


def ratio_table(found: Found, asked: Sequence[tuple[str, str]]) -> Table:
    """Show by how much clusters damage their own domain more than others."""
    rows = []
    for arm, kind in asked:
        trials = of_arm(found, arm)
        matrix = mean_matrix(trials, kind)
        own, others = damage(matrix)
        rows.append(
            [
                arm,
                SAID[kind],
                f"{own:+.3f}",
                f"{others:+.4f}",
                str(damage(matrix)),
                ", ".join(str(damage(figures[kind])) for figures in trials),
                str(best_damage(matrix)),
            ]
        )
    columns = ["arm", "how a cluster is taken away", "own domain", "other domains", "ratio"]
    return Table(
        "Damage to a cluster's own domain against that to the others (nats a byte)",
        [*columns, "ratio by seed", "ratio, clusters matched to domains at their best"],
        rows,
    )


def reading_table(found: Found, arm: str) -> Table:
    """Show what an arm makes of each domain, and what its parts carry."""
    rows = []
    for place, domain in enumerate(DOMAINS):
        seeds = of_arm(found, arm)
        reading = {
            field: fmean(figures["test"][domain][field] for figures in seeds)
            for field in ("loss", "right", "expert_flops")
        }
        shares = [figures["test"][domain]["cluster_share"] for figures in seeds]
        rows.append(
            [
                domain,
                f"{reading['loss']:.3f}",
                f"{reading['right']:.0%}",
                f"{fmean(share[place] for share in shares):.0%}",
                f"{reading['expert_flops'] / 1e3:.1f}",
                *(
                    f"{fmean(figures[part][place] for figures in seeds):+.2f}"
                    for part in ("no_experts", "no_shared")
                ),
            ]
        )
    columns = ["domain", "loss", "answers right", "tokens its own cluster reads"]
    columns += [
        "expert kFLOPs a token",
        "added without any expert",
        "added without the shared part",
    ]
    return Table(f"Each domain, arm {arm}, mean of seeds", columns, rows)


def price_table(found: Found) -> Table:
    """Show what each price on wide experts saves and costs."""
    trials_of = by_stage(found)
    rows = [
        [
            name,
            f"{fmean(readings(trials, 'expert_flops')) / 1e3:.1f}",
            f"{fmean(figures['validation_loss'] for figures in trials):.4f}",
            f"{fmean(readings(trials, 'loss')):.4f}",
            *_against(trials, trials_of[WITHOUT]),
            f"{fmean(readings(trials, 'right')):.1%}",
            str(damage(mean_matrix(trials, "steered"))),
        ]
        for name, trials in trials_of.items()
    ]
    columns = ["second stage", "expert kFLOPs a token", "validation loss", "test loss"]
    columns += ["expert FLOPs saved", "loss added", "answers right", "knock-out ratio"]
    return Table(f"A price on wide experts in a second stage, against {WITHOUT}", columns, rows)


def verdict_table(found: Found) -> Table:
    """Show the price that validation chooses, and what it does on the test split."""
    trials_of = by_stage(found)
    name = equal_and_cheapest(trials_of)
    return Table(
        f"Fewest expert FLOPs at a validation loss at most {TOLERANCE:.2%} higher",
        ["chosen", "expert FLOPs saved, test", "loss added, test"],
        [[name, *_against(trials_of[name], trials_of[WITHOUT])]],
    )


def _against(trials: Sequence[Figures], without: Sequence[Figures]) -> list[str]:
    """Say what some trials save of the expert FLOPs of others, and add to their loss."""
    flops, before = (readings(each, "expert_flops") for each in (trials, without))
    saved = mean([1 - now / then for now, then in zip(flops, before, strict=True)])
    added = difference(readings(trials, "loss"), readings(without, "loss"))
    return [shown(saved, "{:.0%}"), shown(added, "{:+.4f}")]


def damage_panel(found: Found, arm: str) -> Shares:
    """Draw which clusters' absence a domain suffers from; what helps counts as nothing."""
    matrix = mean_matrix(of_arm(found, arm), "steered")
    rows = {}
    for place, domain in enumerate(DOMAINS):
        lost = [max(0.0, row[place]) for row in matrix]
        rows[domain] = [value / (sum(lost) or 1.0) for value in lost]
    return Shares(title=f"Share of a domain's damage: {arm}", columns=CLUSTERS, rows=rows)


def price_panel(found: Found) -> Lines:
    """Draw loss against expert FLOPs: prices paid in training, and put on afterwards."""
    trials_of = by_stage(found)
    without = trials_of[WITHOUT]
    start = fmean(readings(without, "loss"))

    def point(trials: Sequence[Figures]) -> tuple[float, float]:
        loss = fmean(readings(trials, "loss"))
        return fmean(readings(trials, "expert_flops")) / 1e3, 100 * (loss / start - 1)

    later = zip(*(figures["afterwards"] for figures in without), strict=True)
    afterwards = [[{"test": reading} for reading in seeds] for seeds in later]
    priced = [trials for name, trials in trials_of.items() if name.startswith("price")]
    drawn = {
        "trained": sorted(map(point, priced)),
        "after": sorted(map(point, [without, *afterwards])),
    }
    return Lines(
        title="A price on wide experts",
        x_label="expert kFLOPs a token",
        y_label="test loss added, %",
        lines=drawn,
        is_log_x=True,
    )


def shown(interval: Interval, form: str) -> str:
    """Return a figure and its interval in a format."""
    value, low, high = (form.format(x) for x in interval[:3])
    return f"{value} ({low} to {high})"
