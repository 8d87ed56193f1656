"""A run: everything that decides what a training makes. Started by `heddle train`.

A recipe is a file with a function of the same name that returns a `Run`.
"""

import dataclasses
import importlib.util
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from heddle.errors import ConfigError
from heddle.model.config import MemoryConfig, ModelConfig
from heddle.train import dist
from heddle.train.fit import FitConfig, Result, fit
from heddle.train.initial import first_network, train_only
from heddle.train.optim import OptimiserConfig
from heddle.train.publish import keep_speech, publish
from heddle.train.stage import Stage
from heddle.weights.checkpoint import Checkpoint, open_checkpoint
from heddle.weights.hub import full_spec, resolve
from heddle.weights.store import checkpoints


class Objective(Protocol):
    """A frozen dataclass that names data and loss."""

    def stage(self, start: Checkpoint | None) -> Stage:
        """Open the data and return the stage; `start` is the model that the run begins with."""
        ...


@dataclass(frozen=True, kw_only=True)
class Run:
    """A network, what it learns, how, and where its checkpoints and then the model go.

    Attributes:
        start: the model whose weights it begins with, "default" or as `weights.hub.resolve` reads
            it; None for new weights.
        model: the network's shape; None for the start's.
        memory: summaries for a start that has none, or in place of its own.
        trains: patterns, as in file names, of the parameters that train; none for all of them.
    """

    folder: Path
    model: ModelConfig | None = None
    start: str | None = None
    memory: MemoryConfig | None = None
    trains: tuple[str, ...] = ()
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
    """Train, alone or as one of torchrun's processes, from the start or the newest checkpoint.

    After the last step the folder holds a model, if there is a tokenizer to serve it with, and what
    the stage has to report of it.
    """
    if checkpoints(run.folder) and not resume:
        raise ConfigError(
            f"{run.folder} already holds checkpoints; add --resume to go on, or choose another "
            "folder with --set folder=..."
        )
    if run.start:
        run = dataclasses.replace(run, start=full_spec(run.start))
    opened = open_checkpoint(resolve(run.start)) if run.start else None
    config = _model_config(run, opened)
    run = dataclasses.replace(run, model=config)
    device = dist.join()
    try:
        stage = run.objective.stage(opened)
        model = first_network(config, opened, seed=run.fit.seed)
        train_only(model, run.trains)
        if dist.world().rank == 0:
            keep_speech(run.folder, stage)
        result = fit(
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
    if result.rank == 0 and not result.stopped and (run.start or stage.tokenizer):
        publish(run.folder)
        if stage.report:
            stage.report(run.folder)
    return result


def _model_config(run: Run, opened: Checkpoint | None) -> ModelConfig:
    """Return the shape of the network that a run trains."""
    config = run.model or (opened and opened.config)
    if config is None:
        raise ConfigError("a run needs a model, or a start whose model it takes over")
    return dataclasses.replace(config, memory=run.memory) if run.memory else config


def resolved(run: Run) -> Mapping[str, Any]:
    """Return the run's whole configuration as JSON values."""
    assert dataclasses.is_dataclass(run.objective), "an objective is a dataclass"
    return json.loads(json.dumps(dataclasses.asdict(run), default=str))
