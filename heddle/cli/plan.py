"""`heddle plan`: what a network costs in parameters, FLOPs, bytes, GPUs and days.

The formulas and their sources are in docs/plan.md.
"""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heddle.cli import options
from heddle.cli.console import out, print_json
from heddle.errors import ConfigError

if TYPE_CHECKING:
    from heddle.model.config import ModelConfig
    from heddle.model.devices import Device
    from heddle.model.layout import Layout

Json = dict[str, Any]

TOKENS_PER_PARAM = 20  # of compute-optimal training (Hoffmann et al. 2022, arXiv:2203.15556)
DEFAULT_CONTEXT = 8192
LOOPS = (1, 2, 4, 8, 16, 32)
CONTEXTS = (4096, 32_768, 131_072, 1_048_576)
SECONDS_PER_DAY = 86_400

Preset = Annotated[str, typer.Argument(help="A network's name, as in standard or nano.")]
Context = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens of a sequence.", show_default="the preset's, at most 8192"),
]
Loops = Annotated[int, typer.Option(help="Loops of each token through the thinking block.")]
Gpu = Annotated[str, typer.Option(help="The kind of GPU, as in H200.")]
Gpus = Annotated[int, typer.Option(min=1, help="How many GPUs.")]
Tokens = Annotated[
    float | None,
    typer.Option(
        min=1, help="Tokens to train on, as in 1e12.", show_default="20 an active parameter"
    ),
]
Mfu = Annotated[float, typer.Option(help="The share of the GPUs' peak that training reaches.")]


def plan(
    preset: Preset,
    context: Context = None,
    loops: Loops = 1,
    gpu: Gpu = "H100",
    gpus: Gpus = 8,
    tokens: Tokens = None,
    mfu: Mfu = 0.3,
    as_json: options.AsJson = False,
) -> None:
    """Show what a network needs: parameters, FLOPs, cache, GPUs, training time."""
    from heddle.cli.plan_tables import tables
    from heddle.model.devices import find_device
    from heddle.model.presets import find_preset

    config, device = find_preset(preset), find_device(gpu)
    if not 0 < mfu <= 1:
        raise ConfigError(f"--mfu must lie above 0 and be at most 1, not {mfu:g}")
    _check_loops(preset, config, loops)
    context = context or min(config.context_length, DEFAULT_CONTEXT)
    config = replace(config, context_length=max(context, config.context_length))
    network = network_report(config, context=context, loops=loops)
    training = training_report(config, device, num_gpus=gpus, context=context, loops=loops)
    num_tokens = tokens or TOKENS_PER_PARAM * network["active_params"]
    flops = num_tokens * training.pop("flops_per_token")
    days = flops / (gpus * device.peak_flops * mfu) / SECONDS_PER_DAY
    report: Json = {
        "preset": preset,
        "context": context,
        "loops": loops,
        **network,
        "gpu": device.name,
        "num_gpus": gpus,
        "serving": serving_report(config, device, num_gpus=gpus, context=context, loops=loops),
        "training": training | {"tokens": num_tokens, "flops": flops, "mfu": mfu, "days": days},
    }
    if as_json:
        print_json(report)
        return
    for table in tables(report):
        out.print(table, "")


def network_report(config: "ModelConfig", *, context: int, loops: int) -> Json:
    """Return parameters by part, FLOPs by loops, and the cache at several lengths."""
    from heddle.model.cost import active_by_part, keys_attended, parts, typical_expert_channels

    channels = typical_expert_channels(config)
    total = {name: part.num_params for name, part in parts(config).items()}
    active = active_by_part(config, expert_channels_per_token=channels, loops=loops)
    attended = keys_attended(config, first=context - 1, num=1)
    most = config.think.max_loops if config.think else 1
    by_loops = {
        number: token_flops(config, num_attended=attended, loops=number)
        for number in sorted({loops, *LOOPS})
        if number <= most
    }
    lengths = {context, *(length for length in CONTEXTS if length <= config.context_length)}
    caches = [cache_report(config, length, loops=loops) for length in sorted(lengths)]
    return {
        "total_params": sum(total.values()),
        "active_params": round(sum(active.values())),
        "params": {name: {"total": total[name], "active": round(active[name])} for name in total},
        "flops_per_token": by_loops[loops],
        "flops_per_token_by_loops": by_loops,
        "cache_bytes": next(each["cache_bytes"] for each in caches if each["context"] == context),
        "caches": caches,
    }


def cache_report(config: "ModelConfig", context: int, *, loops: int) -> Json:
    """Return what a sequence of this length keeps, with memory and if all of it were exact."""
    from heddle.model.layout import cache_bytes, cache_bytes_per_token

    exact = context * cache_bytes_per_token(config)
    return {
        "context": context,
        "num_slots": config.memory.num_slots(context) if config.memory else 0,
        "cache_bytes": round(cache_bytes(config, context=context, loops=loops)),
        "exact_bytes": exact,
        "cold_bytes": exact if config.memory else 0,
    }


def token_flops(config: "ModelConfig", *, num_attended: float, loops: int) -> float:
    """Return one token's FLOPs, its experts being as wide as the average."""
    from heddle.model.cost import forward_flops, typical_expert_channels

    passes = 1.0
    if config.think:
        passes += (loops - 1) * config.think.num_layers / config.num_layers
    return forward_flops(
        config,
        num_tokens=1,
        num_attended=num_attended,
        num_again=loops - 1,
        expert_channels=passes * typical_expert_channels(config),
    )


def serving_report(
    config: "ModelConfig", device: "Device", *, num_gpus: int, context: int, loops: int
) -> Json:
    """Return the layout for answering, and how many sequences fit beside the weights."""
    from heddle.model.layout import fewest_gpus, num_sequences, serving_layout

    make = partial(serving_layout, config, device, context=context, loops=loops)
    layout = make(num_gpus=num_gpus)
    return _layout_report(layout) | {
        "num_sequences": num_sequences(layout, device),
        "fewest_gpus": fewest_gpus(make),
    }


def training_report(
    config: "ModelConfig", device: "Device", *, num_gpus: int, context: int, loops: int
) -> Json:
    """Return the layout for training, and a token's FLOPs forward and backward."""
    from heddle.model.cost import keys_attended
    from heddle.model.layout import fewest_gpus, training_layout

    make = partial(training_layout, config, device, loops=loops)
    mean_attended = keys_attended(config, first=0, num=context) / context
    return _layout_report(make(num_gpus=num_gpus)) | {
        "fewest_gpus": fewest_gpus(make),
        "flops_per_token": 3 * token_flops(config, num_attended=mean_attended, loops=loops),
    }


def _layout_report(layout: "Layout") -> Json:
    kinds = {kind: round(size) for kind, size in layout.bytes_by_kind.items()}
    return layout.split._asdict() | {"fits": layout.fits, "bytes_per_gpu": kinds}


def _check_loops(preset: str, config: "ModelConfig", loops: int) -> None:
    most = config.think.max_loops if config.think else 1
    if 1 <= loops <= most:
        return
    if config.think is None:
        raise ConfigError(f"{preset} has no thinking block: --loops must be 1, not {loops}")
    raise ConfigError(f"--loops must lie between 1 and {most} for {preset}, not {loops}")
