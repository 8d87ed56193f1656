"""Routing from the first step: clusters of experts, against dense networks and a flat mixture.

    python -m recipes.experiments.routing

All are trained from scratch on the same tokens. The long form takes the presets `nano`,
`nano-dense` and `nano-flat-moe`, the short one smaller networks that stand to each other as those
do. docs/experiments/routing.md says what was found.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from heddle.evals.stats import difference
from heddle.model.config import Expert, FabricConfig, ModelConfig
from heddle.model.cost import total_params
from heddle.model.presets import NANO, NANO_DENSE, NANO_FLAT_MOE
from heddle.train.adaptive import Auxiliary
from heddle.train.chart import Lines
from heddle.train.report import loss_curve
from recipes.experiments.cluster_tables import of_arm, readings, shown
from recipes.experiments.clusters import SMALL
from recipes.experiments.domain_training import DOMAINS, Training, held_out, read
from recipes.experiments.experiment import Experiment, Figures, Found, Table, run

# As NANO_DENSE and NANO_FLAT_MOE are to NANO: as many FLOPs a token with three experts of mean
# width. The large ones have as many parameters instead, all of which every token uses.
SMALL_DENSE = replace(SMALL, ffn_width=241, fabric=None)
SMALL_FLAT_MOE = replace(SMALL, fabric=FabricConfig(experts=(Expert(0, 56),) * 11))
SMALL_LARGE = replace(SMALL, ffn_width=686, fabric=None)
NANO_LARGE = replace(NANO_DENSE, ffn_width=1375)

UNLABELLED = Auxiliary(cluster=0.0, last_cluster=0.0, cost=0.0)
SHORT = Training(model=SMALL, num_steps=1600)
FULL = Training(model=NANO, num_steps=4000, tokens_per_batch=2048)


class Arm(NamedTuple):
    """A network of the short form, its like of the long one, and whether it learns from labels."""

    small: ModelConfig
    nano: ModelConfig
    is_labelled: bool = False


ARMS = {
    "clusters": Arm(SMALL, NANO, is_labelled=True),
    "unlabelled": Arm(SMALL, NANO),
    "flat-moe": Arm(SMALL_FLAT_MOE, NANO_FLAT_MOE),
    "dense": Arm(SMALL_DENSE, NANO_DENSE),
    "large": Arm(SMALL_LARGE, NANO_LARGE),
}
SAID = {
    "clusters": "clusters with labels",
    "unlabelled": "clusters without labels",
    "flat-moe": "flat mixture",
    "dense": "dense, equal FLOPs",
    "large": "dense, equal parameters",
}
AGAINST = "dense"


def trial(arm: str, seed: int, full: bool, folder: Path) -> Figures:
    """Train an arm's network and read every domain."""
    small, nano, is_labelled = ARMS[arm]
    training = replace(FULL if full else SHORT, model=nano if full else small)
    if not is_labelled:
        training = replace(training, auxiliary=UNLABELLED)
    model = training.trained(seed, folder)
    test = read(model, held_out("test"))
    return {
        "params": total_params(model.config),
        "tokens": training.num_steps * training.tokens_per_batch,
        "curve": loss_curve(folder, "cross_entropy"),
        "test": {name: reading._asdict() for name, reading in test.items()},
    }


def tables(found: Found) -> list[Table]:
    """Show what each network costs and how it reads each domain."""
    sizes, domains = [], []
    for arm in found:
        trials = of_arm(found, arm)
        losses = readings(trials, "loss")
        added = difference(losses, readings(of_arm(found, AGAINST), "loss"))
        sizes.append(
            [
                SAID[arm],
                f"{trials[0]['params'] / 1e3:,.0f}",
                f"{trials[0]['tokens'] / 1e3:,.0f}",
                f"{fmean(readings(trials, 'flops')) / 1e3:,.0f}",
                f"{fmean(losses):.4f}",
                "" if arm == AGAINST else shown(added, "{:+.4f}"),
            ]
        )
        for field, form in (("loss", "{:.3f}"), ("right", "{:.0%}")):
            values = [
                fmean(figures["test"][domain][field] for figures in trials) for domain in DOMAINS
            ]
            named = "loss" if field == "loss" else "answers right"
            domains.append([SAID[arm], named, *(form.format(value) for value in values)])
    columns = ["network", "thousand parameters", "thousand tokens", "kFLOPs a token, measured"]
    columns += ["test loss", f"against {SAID[AGAINST]}"]
    return [
        Table("Networks trained from scratch on the same tokens", columns, sizes),
        Table("By domain, mean of seeds", ["network", "figure", *DOMAINS], domains),
    ]


def panels(found: Found) -> list[Lines]:
    """Draw the losses in training, and at the end against work."""
    curves = {}
    for arm in found:
        each = [figures["curve"] for figures in of_arm(found, arm)]
        curves[arm] = [
            (points[0][0], fmean(loss for _, loss in points)) for points in zip(*each, strict=True)
        ]
    return [
        Lines(
            title="Training loss, mean of seeds",
            x_label="tokens",
            y_label="cross entropy, nats a byte",
            lines=curves,
            is_log_x=True,
        )
    ]


EXPERIMENT = Experiment(
    name="routing",
    title="Routing from the first step: clusters against dense and flat networks",
    arms={arm: partial(trial, arm) for arm in ARMS},
    tables=tables,
    panels=panels,
)

if __name__ == "__main__":
    run(EXPERIMENT)
