"""From what was measured to the JSON object of `heddle bench`; docs/bench.md has its fields."""

from collections.abc import Mapping, Sequence

from heddle.bench.environment import describe_environment
from heddle.bench.load import LoadResult
from heddle.bench.measure import Comparison, percentile

Json = dict[str, object]
NO_PEER: Json = {"peer": None, "peer_name": None, "ratio": None}


def comparison_report(found: Sequence[Comparison], *, threads: int, model: str) -> Json:
    """Return medians, quartiles and ratios, then what they were measured under.

    The first measurement names the report; figures of a further one stand under its own name.
    """
    main, *further = found
    report = _figures(main)
    for each in further:
        report[each.measurement.name] = _figures(each)
    return {
        **report,
        "rounds": len(main.rounds),
        "prompt_tokens": main.measurement.num_prompt_tokens,
        "new_tokens": main.measurement.num_new_tokens,
        "streams": main.measurement.num_streams,
        "threads": threads,
        "model": model,
        **_contenders(main),
        "environment": describe_environment(),
    }


def load_report(found: LoadResult, settings: Mapping[str, object]) -> Json:
    """Return the figures of a load and its settings."""
    return {
        "name": "load",
        "unit": "tokens/s",
        "ours": round(found.tokens_per_s, 2),
        **NO_PEER,
        **found.as_json(),
        **settings,
        "environment": describe_environment(),
    }


def _figures(comparison: Comparison) -> Json:
    measurement, contenders = comparison.measurement, comparison.contenders
    found: Json = {"name": measurement.name, "unit": measurement.unit}
    found |= _spread("ours", comparison.values(0))
    if len(contenders) == 1:
        return found | NO_PEER
    return {
        **found,
        **_spread("peer", comparison.values(1)),
        "peer_name": contenders[1].name,
        **_spread("ratio", comparison.ratios()),
    }


def _contenders(comparison: Comparison) -> Json:
    ours, *peers = comparison.contenders
    found: Json = {"ours_dtype": ours.dtype}
    for peer in peers:
        found |= {
            "peer_dtype": peer.dtype,
            "peer_version": peer.version,
            "same_tokens": round(comparison.share_same_tokens(), 3),
            "ours_idle_cpu": round(comparison.idle_share(0), 3),
            "peer_idle_cpu": round(comparison.idle_share(1), 3),
        }
    return found


def _spread(name: str, values: list[float]) -> Json:
    return {
        name: round(percentile(values, 50), 3),
        f"{name}_low": round(percentile(values, 25), 3),
        f"{name}_high": round(percentile(values, 75), 3),
    }
