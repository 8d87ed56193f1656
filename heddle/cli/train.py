"""`heddle train`: start or resume a recipe's run; under torchrun, one of its processes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heddle.cli.console import note

if TYPE_CHECKING:
    from heddle.train.fit import Result

RESUMABLE = 75  # EX_TEMPFAIL of sysexits.h: not done, try again

Recipe = Annotated[str, typer.Argument(help="A name in the folder recipes, or a .py file.")]
Set = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="Change a setting, as in fit.num_steps=100."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")]


def train(recipe: Recipe, set: Set = None, resume: Resume = False) -> None:
    """Train a model; status 75 says that it stopped early, saved, and can be resumed."""
    from heddle.train.overrides import override
    from heddle.train.run import load_recipe, start

    run = override(load_recipe(recipe), set or [])
    result = start(run, resume=resume)
    if result.rank == 0:
        note(_ending(result, run.folder))
    if result.stopped:
        raise typer.Exit(RESUMABLE)


def _ending(result: "Result", folder: Path) -> str:
    from heddle.weights.checkpoint import PUBLISHED

    if result.stopped:
        return f"Stopped after step {result.step} ({result.stopped}); go on with --resume"
    losses = ", ".join(
        f"{name.replace('_', ' ')} {result.figures[name]:.4f}"
        for name in ("loss", "validation_loss")
        if result.figures.get(name) is not None
    )
    is_served = (folder / PUBLISHED).is_dir()
    left = f"`heddle serve {folder}` serves it" if is_served else f"checkpoints are in {folder}"
    return f"Done: {result.step} steps, {losses}; {left}"
