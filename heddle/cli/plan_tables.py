"""The tables that `heddle plan` prints, from what it prints as JSON."""

from collections.abc import Iterable
from typing import Any

from rich import box
from rich.table import Table

COUNTS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
FLOPS = ((1e24, "YFLOP"), (1e21, "ZFLOP"), (1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"),
         (1e9, "GFLOP"), (1e6, "MFLOP"))  # fmt: skip
BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
DAYS = ((365.25, "years"), (1, "days"), (1 / 24, "hours"), (1 / 1440, "minutes"))
WAYS = {"tensor": "tensor parallel", "expert": "expert parallel", "data": "data parallel",
        "fsdp": "states sharded over"}  # fmt: skip


def tables(report: dict[str, Any]) -> list[Table]:
    """Return one table a question: parameters, work, cache, layouts, training time."""
    return [
        _params(report),
        _work(report),
        _caches(report),
        _layouts(report),
        _training(report),
    ]


def scaled(value: float, units: Iterable[tuple[float, str]]) -> str:
    """Write a number with three digits, in the first unit that is not larger than it."""
    for size, unit in units:
        if value >= size:
            digits = len(str(int(value / size)))
            return f"{value / size:,.{max(0, 3 - digits)}f} {unit}"
    return f"{value:g}"


def _params(report: dict[str, Any]) -> Table:
    table = _table(f"Parameters of {report['preset']}", "", "total", "active", "share of active")
    active = report["active_params"]
    for name, part in report["params"].items():
        table.add_row(
            name.replace("_", " "),
            scaled(part["total"], COUNTS),
            scaled(part["active"], COUNTS),
            f"{part['active'] / active:.1%}",
        )
    table.add_section()
    table.add_row("all", scaled(report["total_params"], COUNTS), scaled(active, COUNTS), "")
    table.caption = f"active: what a token uses at loops {report['loops']}, each parameter once"
    return table


def _work(report: dict[str, Any]) -> Table:
    table = _table("Work of one token", "loops", "FLOPs", "times one loop")
    by_loops = report["flops_per_token_by_loops"]
    for loops, flops in by_loops.items():
        table.add_row(str(loops), scaled(flops, FLOPS), f"{flops / by_loops[1]:.2f}")
    table.caption = (
        f"at the end of {report['context']:,} tokens; 2 FLOPs a multiply-add (arXiv:2204.02311)"
    )
    return table


def _caches(report: dict[str, Any]) -> Table:
    table = _table("Cache of one sequence", "tokens", "all exact", "kept", "slots", "cold store")
    for each in report["caches"]:
        table.add_row(
            f"{each['context']:,}",
            scaled(each["exact_bytes"], BYTES),
            scaled(each["cache_bytes"], BYTES),
            f"{each['num_slots']:,}" if each["num_slots"] else "",
            scaled(each["cold_bytes"], BYTES) if each["cold_bytes"] else "",
        )
    table.caption = "bfloat16; kept: what the next token reads, later loops' own keys included"
    return table


def _layouts(report: dict[str, Any]) -> Table:
    table = _table(f"{report['num_gpus']:,} x {report['gpu']}", "", "serving", "training")
    both = [report["serving"], report["training"]]
    for way, label in WAYS.items():
        table.add_row(label, *(f"{each[way]:,}" for each in both))
    table.add_section()
    sizes = [each["bytes_per_gpu"] for each in both]
    for kind in dict.fromkeys((*sizes[0], *sizes[1])):
        table.add_row(kind, *(scaled(each[kind], BYTES) if kind in each else "" for each in sizes))
    table.add_row("in one GPU", *(scaled(sum(each.values()), BYTES) for each in sizes))
    table.add_section()
    table.add_row("fits", *("yes" if each["fits"] else "[bold red]no" for each in both))
    fewest = [each["fewest_gpus"] for each in both]
    table.add_row("fewest GPUs", *(f"{number:,}" if number else "none" for number in fewest))
    table.add_row("sequences at once", f"{report['serving']['num_sequences']:,}", "")
    table.caption = "splits: arXiv:1909.08053, 2006.16668; shards: arXiv:1910.02054, 2304.11277"
    return table


def _training(report: dict[str, Any]) -> Table:
    training = report["training"]
    table = _table("Training", "", "")
    table.show_header = False
    table.add_row("tokens", scaled(training["tokens"], COUNTS))
    table.add_row("work", scaled(training["flops"], FLOPS))
    table.add_row("utilisation of the peak", f"{training['mfu']:.0%}")
    table.add_row("time", scaled(training["days"], DAYS) if training["days"] > DAYS[-1][0]
                  else "less than a minute")  # fmt: skip
    table.caption = "a backward pass is twice its forward (arXiv:2204.02311)"
    if not training["fits"]:
        table.caption = "these GPUs cannot hold it: the time is that of as much arithmetic"
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, min_width=64)
    table.title_justify = table.caption_justify = "left"
    table.title_style = "bold"
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right")
    return table
