"""A run: everything that decides what a training makes. Started by `heddle train`.

A recipe is a file with a function of the same name that returns a `Run`.
"""

import dataclasses
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from heddle.errors import ConfigError
from heddle.model.config import ModelConfig
from heddle.model.transformer import Transformer
from heddle.train import dist
from heddle.train.fit import FitConfig, Result, fit
from heddle.train.initial import initialise
from heddle.train.optim import OptimiserConfig
from heddle.train.stage import Stage
from heddle.weights.store import checkpoints


class Objective(Protocol):
    """A frozen dataclass that names data and loss."""

    def stage(self) -> Stage:
        """Open the data and return the stage."""
        ...


@dataclass(frozen=True, kw_only=True)
class Run:
    """A network, what it learns, how, and where its checkpoints go."""

    folder: Path
    model: ModelConfig
    objective: Objective
    optimiser: OptimiserConfig
    fit: FitConfig


def load_recipe(name: str) -> Run:
    """Return the run of a recipe: a path to a file, or a name in the folder `recipes`.

    Raises ConfigError when there is none.
    """
    path = Path(name)
    if path.suffix != ".py":
        path = Path("recipes") / f"{name}.py"
    if not path.is_file():
        known = ", ".join(sorted(other.stem for other in Path("recipes").glob("*.py"))) or "none"
        raise ConfigError(f"there is no recipe {path}; recipes here: {known}")
    spec = importlib.util.spec_from_file_location(f"recipes.{path.stem}", path)
    assert spec and spec.loader, f"{path} ends in .py"
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, path.stem):
        raise ConfigError(f"{path} must define a function {path.stem}() that returns a Run")
    return getattr(module, path.stem)()


def start(run: Run, *, resume: bool) -> Result:
    """Train, alone or as one of torchrun's processes, from the start or the newest checkpoint."""
    if checkpoints(run.folder) and not resume:
        raise ConfigError(
            f"{run.folder} already holds checkpoints; add --resume to go on, or choose another "
            "folder with --set folder=..."
        )
    device = dist.join()
    try:
        stage = run.objective.stage()
        torch.manual_seed(run.fit.seed)
        model = Transformer(run.model)
        initialise(model)
        return fit(
            model.to(device),
            stage,
            optimiser=run.optimiser,
            config=run.fit,
            folder=run.folder,
            resume=resume,
            configuration=resolved(run),
        )
    finally:
        dist.leave()


def resolved(run: Run) -> Mapping[str, Any]:
    """Return the run's whole configuration as JSON values."""
    assert dataclasses.is_dataclass(run.objective), "an objective is a dataclass"
    return dataclasses.asdict(run) | {"folder": str(run.folder)}
