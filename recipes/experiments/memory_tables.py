"""What the page of the experiment `memory` shows of its trials. Called by `memory`."""

from heddle.evals.stats import Interval, mean
from heddle.train.chart import Lines
from recipes.experiments.experiment import Figures, Found, Table, over_seeds

# Arm and reading, as the page names them.
SAID = {
    ("exact", "exact"): "full attention",
    ("pages", "pages"): "**slots and pages**",
    ("pages", "slots"): "the same network, its pages taken away",
    ("slots", "slots"): "slots",
    ("exact", "pages"): "full attention, read through mean-pooled slots and pages",
    ("exact", "slots"): "full attention, read through mean-pooled slots",
    ("window", "window"): "window only",
}
KINDS = {"facts": "Facts", "passkey": "Passkeys, all five digits"}


def tables(found: Found) -> list[Table]:
    """Return what stands on the page."""
    return [*(_recall(found, kind) for kind in KINDS), _held(found), _work(found)]


def panels(found: Found) -> list[Lines]:
    """Return what the picture shows."""
    return [
        *(
            Lines(
                title=KINDS[kind],
                x_label="distance in bytes; the window has 32",
                y_label="found",
                lines={
                    said.replace("**", ""): [
                        (float(distance), share(found, names, kind, distance).value)
                        for distance in distances(found)
                    ]
                    for names, said in SAID.items()
                },
                is_log_x=True,
                is_share=True,
            )
            for kind in KINDS
        ),
        Lines(
            title="What attention holds",
            x_label="tokens read",
            y_label="keys and values a token reads, KiB",
            lines={
                arm: [
                    (float(context), each["size_bytes"] / 1024)
                    for context, each in _any(found, arm)["held"].items()
                ]
                for arm in ("exact", "slots", "pages")
            },
            is_log_x=True,
        ),
    ]


def distances(found: Found) -> list[str]:
    """Return the distances tested, shortest first."""
    return list(_any(found, "exact")["recall"]["exact"]["facts"])


def share(found: Found, names: tuple[str, str], kind: str, distance: str) -> Interval:
    """Return how much a network finds through a reading, over seeds."""
    arm, reading = names
    return mean(over_seeds(found, arm, lambda f: f["recall"][reading][kind][distance]))


def _recall(found: Found, kind: str) -> Table:
    columns = [f"{distance} bytes" for distance in distances(found)]
    rows = [
        [said, *(_percent(share(found, names, kind, distance)) for distance in distances(found))]
        for names, said in SAID.items()
    ]
    return Table(f"{KINDS[kind]} found, by distance", ["read through", *columns], rows)


def _held(found: Found) -> Table:
    arms = {"exact": "full attention", "slots": "slots", "pages": "slots and pages"}
    contexts = _any(found, "exact")["held"]
    rows = []
    for context in contexts:
        each = {arm: _any(found, arm)["held"][context] for arm in arms}
        counts = [f"{each[arm]['num_keys'][0]:,}" for arm in arms]
        sizes = [f"{each[arm]['size_bytes'] / 1024:,.0f}" for arm in arms]
        designed = [f"{each[arm]['num_slots']:,}" for arm in ("slots", "pages")]
        kept = [f"{each[arm]['kept_bytes'] / 1024:,.0f}" for arm in ("exact", "pages")]
        rows.append([f"{int(context):,}", *counts, *designed, *sizes, *kept])
    columns = [
        "tokens read",
        *(f"keys, {said}" for said in arms.values()),
        *(f"slots designed, {arms[arm]}" for arm in ("slots", "pages")),
        *(f"KiB, {said}" for said in arms.values()),
        *(f"KiB kept, {arms[arm]}" for arm in ("exact", "pages")),
    ]
    return Table("What attention holds for one more token, counted in the engine", columns, rows)


def _work(found: Found) -> Table:
    rows = []
    for arm in found:
        first = _any(found, arm)
        seconds = mean(over_seeds(found, arm, lambda f: f["seconds"])).value
        loss = mean(over_seeds(found, arm, lambda f: f["loss"])).value
        rows.append(
            [
                arm,
                f"{first['work']['params']:,}",
                f"{first['work']['flops'] / 1e6:.2f}",
                f"{first['tokens']:,}",
                f"{loss:.3f}",
                f"{seconds:.0f}",
            ]
        )
    columns = ["arm", "parameters", "MFLOPs of a token behind 1,024", "tokens", "loss", "seconds"]
    return Table("The networks, and their training after the common beginning", columns, rows)


def _any(found: Found, arm: str) -> Figures:
    """Return the figures of an arm's first seed, where all seeds agree."""
    return found[arm][min(found[arm])]


def _percent(interval: Interval) -> str:
    low, high = max(0.0, interval.low), min(1.0, interval.high)
    return f"{interval.value:.1%} ({low:.0%} to {high:.0%})"
