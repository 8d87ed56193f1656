"""`heddle bench`: the measurements of docs/bench.md."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from heddle.cli import options
from heddle.cli.console import err, out, print_json
from heddle.errors import ConfigError

if TYPE_CHECKING:
    from heddle.bench.measure import Measurement
    from heddle.bench.report import Json
    from heddle.engine.config import DType

app = typer.Typer(no_args_is_help=True, help="Measure speed and memory, beside a peer if asked.")

STREAM_TOKENS = 256  # room for each of several streams
PEER_PACKAGES = {  # what a peer's worker imports, and what to install for it
    "transformers": (("transformers", "accelerate"), "transformers accelerate"),
    "llama.cpp": (("llama_cpp",), "llama-cpp-python"),
}
Model = Annotated[str, typer.Option(help=options.MODEL_HELP)]
Peer = Annotated[
    Literal["transformers", "llama.cpp", "base", "none"],
    typer.Option(
        help="Whom to measure beside us, on the same file; base: the model under a delta."
    ),
]
LoadPeer = Annotated[
    Literal["llama.cpp", "base", "none"],
    typer.Option(
        help="Whom to measure beside us: --at-once answers side by side, without HTTP, each engine "
        "in a process of its own."
    ),
]
Rounds = Annotated[
    int, typer.Option(min=1, help="Rounds, whose median counts; a peer's alternate with ours.")
]
PeerDtype = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option(help="Precision of transformers; llama.cpp keeps the file's."),
]
Chats = Annotated[int, typer.Option(min=1, help="Chats in all.")]
AtOnce = Annotated[int, typer.Option(min=1, help="Chats at any one time.")]
LengthSeed = Annotated[int, typer.Option(help="Seed of the lengths of prompts and answers.")]
TimeLimit = Annotated[
    float, typer.Option(min=1, help="Seconds after which the load ends, finished or not.")
]
PromptTokens = Annotated[int, typer.Option(min=1, help="Tokens of the prompt that is read.")]
Context = Annotated[int, typer.Option(min=64, help="Tokens of the context that is filled.")]


def comparison(name: str) -> Callable[..., None]:
    """Return the command for a measurement that peers can be put through too."""

    def command(
        model: Model = options.DEFAULT,
        peer: Peer = "none",
        rounds: Rounds = 9,
        threads: options.Threads = None,
        dtype: options.Dtype = "float32",
        peer_dtype: PeerDtype = "float32",
        as_json: options.AsJson = False,
    ) -> None:
        from heddle.bench.measure import MEASUREMENTS

        files = _files(model, peer, dtype, peer_dtype)
        _compare(MEASUREMENTS[name], files, rounds=rounds, threads=threads, as_json=as_json)

    return command


def _files(
    model: str, peer: str, dtype: "DType", peer_dtype: "DType"
) -> "dict[str, tuple[Path, DType]]":
    """Return what each side loads, and in which precision, by its name, ours first."""
    from heddle.bench.compare import BASE
    from heddle.cli.download import fetched

    path = fetched(model)
    check_peer(peer, path)
    if peer == BASE:
        return {"heddle": (path, dtype), peer: (base_of(path), dtype)}
    theirs: dict[str, tuple[Path, DType]] = {} if peer == "none" else {peer: (path, peer_dtype)}
    return {"heddle": (path, dtype), **theirs}


def _compare(
    measurements: "Sequence[Measurement]",
    files: "Mapping[str, tuple[Path, DType]]",
    *,
    rounds: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Put all sides through measurements and show the report."""
    from heddle.bench.compare import compare
    from heddle.bench.environment import num_cores
    from heddle.bench.report import comparison_report
    from heddle.bench.worker import WorkerSettings

    threads, num_streams = threads or num_cores(), measurements[0].num_streams
    contenders = {
        name: WorkerSettings(
            path=str(file),
            threads=threads,
            context_length=max(2048, STREAM_TOKENS * num_streams),
            dtype=precision,
            streams=num_streams,
        )
        for name, (file, precision) in files.items()
    }
    with progress(measurements[0].name, rounds * len(measurements)) as step:
        found = compare(
            measurements,
            contenders,
            num_rounds=rounds,
            on_round=lambda values: step(" / ".join(values)),
        )
    path, _ = files["heddle"]
    show(comparison_report(found, threads=threads, model=path.name), as_json=as_json)


app.command("decode", help="Tokens a second of one answer.")(comparison("decode"))
app.command("prefill", help="Tokens a second of a 512-token prompt.")(comparison("prefill"))
app.command("ttft", help="Time to the first token of a 128-token prompt, new and seen before.")(
    comparison("ttft")
)


@app.command()
def load(
    model: Model = options.DEFAULT,
    chats: Chats = 32,
    at_once: AtOnce = 8,
    peer: LoadPeer = "none",
    rounds: Rounds = 9,
    seed: LengthSeed = 1,
    time_limit: TimeLimit = 300,
    threads: options.Threads = None,
    as_json: options.AsJson = False,
) -> None:
    """Many chats at once over HTTP: throughput, waits, errors; or answers beside a peer's."""
    if peer != "none":
        from heddle.bench.measure import streams

        files = _files(model, peer, "float32", "float32")
        _compare([streams("load", at_once)], files, rounds=rounds, threads=threads, as_json=as_json)
        return
    from heddle.bench.environment import num_cores
    from heddle.bench.load import draw_chats, run_load
    from heddle.bench.report import load_report
    from heddle.bench.server_process import heddle_command, running
    from heddle.cli.download import fetched

    path, threads = fetched(model), threads or num_cores()
    command = heddle_command(path, threads=threads, context_length=2048)
    with progress("load", chats) as step, running(command) as server:
        found = asyncio.run(
            run_load(
                server.url,
                draw_chats(chats, seed=seed),
                num_at_once=at_once,
                time_limit_s=time_limit,
                on_answer=lambda: step(""),
            )
        )
    settings = {
        "chats": chats,
        "at_once": at_once,
        "seed": seed,
        "threads": threads,
        "model": path.name,
    }
    show(load_report(found, settings), as_json=as_json)


@app.command()
def gap(
    model: Model = options.DEFAULT,
    prompt_tokens: PromptTokens = 4000,
    rounds: Rounds = 3,
    threads: options.Threads = None,
    as_json: options.AsJson = False,
) -> None:
    """How long a running answer waits for a token while a long prompt is read."""
    from heddle.bench.gap import measure_gap

    measure = partial(measure_gap, num_prompt_tokens=prompt_tokens)
    _in_rounds(measure, model, name="gap", rounds=rounds, threads=threads, as_json=as_json)


@app.command()
def loop(
    model: Model = options.DEFAULT,
    rounds: Rounds = 9,
    threads: options.Threads = None,
    as_json: options.AsJson = False,
) -> None:
    """What a further loop of the thinking block takes, beside the block's first pass."""
    from heddle.bench.loop import measure_loop

    _in_rounds(measure_loop, model, name="loop", rounds=rounds, threads=threads, as_json=as_json)


@app.command()
def roofline(
    model: Model = options.DEFAULT,
    rounds: Rounds = 5,
    threads: options.Threads = None,
    as_json: options.AsJson = False,
) -> None:
    """What a token takes, what the machine could do, and our share of it."""
    from heddle.bench.roofline import measure_roofline

    _in_rounds(
        measure_roofline, model, name="roofline", rounds=rounds, threads=threads, as_json=as_json
    )


@app.command()
def memory(
    model: Model = options.DEFAULT,
    context_length: Context = 8192,
    threads: options.Threads = None,
    as_json: options.AsJson = False,
) -> None:
    """Peak memory of a fresh server that fills one context to its end."""
    from heddle.bench.environment import num_cores
    from heddle.bench.footprint import measure_memory
    from heddle.cli.download import fetched

    with err.status("Filling a context…"):
        found = measure_memory(
            fetched(model), threads=threads or num_cores(), context_length=context_length
        )
    show(found, as_json=as_json)


@app.command()
def startup(
    model: Model = options.DEFAULT,
    rounds: Rounds = 3,
    threads: options.Threads = None,
    as_json: options.AsJson = False,
) -> None:
    """Seconds from the start of a server's process until it answers."""
    from heddle.bench.footprint import measure_startup

    _in_rounds(
        measure_startup, model, name="startup", rounds=rounds, threads=threads, as_json=as_json
    )


def _in_rounds(
    measure: "Callable[..., Json]",
    model: str,
    *,
    name: str,
    rounds: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure in rounds that report themselves, and show what was found."""
    from heddle.bench.environment import num_cores
    from heddle.cli.download import fetched

    path = fetched(model)
    with progress(name, rounds) as step:
        found = measure(path, threads=threads or num_cores(), num_rounds=rounds, on_round=step)
    show(found, as_json=as_json)


def check_peer(peer: str, path: Path) -> None:
    """Raise ConfigError, saying what to install, if the peer cannot be measured on this model."""
    modules, packages = PEER_PACKAGES.get(peer, ((), ""))
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ConfigError(f"the peer {peer} is not installed: run `pip install {packages}`")
    if peer == "llama.cpp" and path.suffix != ".gguf":
        raise ConfigError(f"llama.cpp reads .gguf files only, and {path} is none")


def base_of(path: Path) -> Path:
    """Return where the dense model under a delta is."""
    from heddle.weights.checkpoint import open_checkpoint
    from heddle.weights.hub import resolve

    base = open_checkpoint(path).base
    if base is None:
        raise ConfigError(f"{path} stands on no base: the peer base is for upcycled models")
    return resolve(base.spec)


@contextmanager
def progress(name: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show rounds done and the time left on standard error; call what is given after each round."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[found]}"),
    )  # fmt: skip
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(name, total=total, found="")
        yield lambda found: bar.update(task, advance=1, found=found)


def show(report: "Json", *, as_json: bool) -> None:
    """Print a report: one JSON object on the last line, or a table."""
    from rich.table import Table

    if as_json:
        print_json(report)
        return
    table = Table.grid(padding=(0, 2))
    for name, value in report.items():
        if value is not None and not isinstance(value, dict):
            table.add_row(f"[bold]{name.replace('_', ' ')}", str(value))
    out.print(table)
