"""`heddle quantize`: write a model in 8 or 4 bits, and say what that costs."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from heddle.cli import options
from heddle.cli.console import err, note, out, print_json
from heddle.errors import DataError

if TYPE_CHECKING:
    from heddle.bench.quality import Quality
    from heddle.weights.quantise import RoundingError

Source = Annotated[str, typer.Argument(help=options.MODEL_HELP, metavar="SOURCE")]
Target = Annotated[
    Path,
    typer.Argument(
        help="What to make: a name in .gguf for a GGUF file (dense models), else one of Heddle's "
        "folders. It must not exist yet."
    ),
]
Type = Annotated[
    Literal["q8_0", "q4_1", "q4_0"],
    typer.Option(help="Blocks of 8 bits, of 4 with an offset, or of 4; the vocabulary keeps 8."),
]
Text = Annotated[
    Path | None,
    typer.Option(help="What to compare the two on.", show_default="a text that comes with Heddle"),
]
Tokens = Annotated[
    int, typer.Option(min=0, help="How much of the text to read at most; 0 compares nothing.")
]


def quantize(
    source: Source,
    target: Target,
    type: Type = "q4_1",
    text: Text = None,
    tokens: Tokens = 4096,
    as_json: options.AsJson = False,
) -> None:
    """Write a model in 8 or 4 bits, with its errors, and compare it with what it was made from."""
    from heddle.bench.quality import compare_models, own_text
    from heddle.cli.download import fetched
    from heddle.model.cost import total_params
    from heddle.weights.checkpoint import open_checkpoint
    from heddle.weights.quantise import FORMATS, quantise, rounding_errors

    sample = _read(text) if text else own_text()
    before = open_checkpoint(fetched(source))
    with _bar("Rounding", total_params(before.config)) as advance:
        quantise(before, target, FORMATS[type], on_rounded=advance)
    after, quality = open_checkpoint(target), None
    errors = list(rounding_errors(before, after))
    if tokens:
        with _bar("Comparing", tokens) as advance:
            quality = compare_models(before, after, sample, max_tokens=tokens, on_piece=advance)
    if as_json:
        print_json(
            {
                "path": str(target),
                "name": after.name,
                "description": after.description,
                "size_bytes": after.size_bytes,
                "size_bytes_before": before.size_bytes,
                "tensors": [error._asdict() for error in errors],
                "quality": quality._asdict() if quality else None,
            }
        )
        return
    print(target)
    _show(errors, quality)
    note(f"{after.name}: {after.description}, {after.size_bytes / 1e6:.1f} MB")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from error


@contextmanager
def _bar(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show what is done and the time left; call what is given with each piece's size."""
    from rich.progress import Progress

    with Progress(console=err, transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda size: bar.update(task, advance=size)


def _show(errors: "Sequence[RoundingError]", quality: "Quality | None") -> None:
    """Print a row for each kind of tensor, and one for each figure of the comparison."""
    from rich.table import Table

    kinds: defaultdict[tuple[str, str], list[RoundingError]] = defaultdict(list)
    for error in errors:
        name = re.sub(r"^layers\.\d+\.", "layers: ", error.name).removesuffix(".weight")
        kinds[name, error.format].append(error)
    table = Table("Tensors", "Format", "Numbers", "Error", "Worst tensor's", "Largest", box=None)
    for (name, format), group in kinds.items():
        num_params = sum(error.num_params for error in group)
        squares = sum(error.relative_rms**2 * error.num_params for error in group)
        worst = max(group, key=lambda error: error.relative_rms)
        table.add_row(
            name,
            format,
            f"{num_params / 1e6:.2f}M",
            f"{(squares / num_params) ** 0.5:.2%}",
            f"{worst.relative_rms:.2%} {_layer(worst.name)}",
            f"{max(error.relative_worst for error in group):.2f}",
        )
    out.print(table, soft_wrap=True)
    if quality is None:
        return
    table = Table.grid(padding=(0, 2))
    table.add_row("Perplexity before", f"{quality.perplexity_before:.3f}")
    change = quality.perplexity_after / quality.perplexity_before - 1
    table.add_row("Perplexity after", f"{quality.perplexity_after:.3f} ({change:+.2%})")
    table.add_row("Mean KL", f"{quality.mean_kl:.2e} nats ({quality.num_tokens} tokens)")
    table.add_row("KL of 99% below", f"{quality.p99_kl:.2e} nats")
    table.add_row("Same likeliest token", f"{quality.same_first:.1%}")
    out.print(table)


def _layer(name: str) -> str:
    number = re.match(r"layers\.(\d+)\.", name)
    return f"(layer {number[1]})" if number else ""
