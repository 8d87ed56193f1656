"""A small run that the tests of the loop share, and how its results are compared."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from heddle.model.transformer import Transformer
from heddle.train.fit import FitConfig, Result, fit
from heddle.train.initial import initialise
from heddle.train.optim import OptimiserConfig
from heddle.train.run import Run, load_recipe
from heddle.train.stage import Stage
from heddle.weights.store import Tensors, checkpoints, read_tensors

RECIPE = str(Path(__file__).parents[2] / "recipes" / "tiny_pretrain.py")


def small_run(folder: Path, *, hidden: str = "muon", **fit_fields) -> Run:
    """Return the tiny recipe with documents fewer, to be changed by fields of FitConfig."""
    run = load_recipe(RECIPE)
    return replace(
        run,
        folder=folder,
        objective=replace(run.objective, num_documents=4, passage_tokens=8),
        optimiser=OptimiserConfig(hidden=hidden, learning_rate=3e-3),
        fit=FitConfig(**({"num_steps": 6, "num_microbatches": 2} | fit_fields)),
    )


def small_model(run: Run) -> Transformer:
    torch.manual_seed(run.fit.seed)
    model = Transformer(run.model)
    initialise(model)
    return model


def train(run: Run, *, stage: Stage | None = None, resume: bool = False) -> Result:
    return fit(
        small_model(run),
        stage or run.objective.stage(None),
        optimiser=run.optimiser,
        config=run.fit,
        folder=run.folder,
        resume=resume,
        configuration={},
    )


def newest(folder: Path) -> Tensors:
    return read_tensors(checkpoints(folder)[-1])


def assert_same_bits(ours: Tensors, theirs: Tensors) -> None:
    for mine, other in ((ours.model, theirs.model), (ours.optimiser, theirs.optimiser)):
        assert mine.keys() == other.keys()
        for name, tensor in mine.items():
            assert same_bits(tensor, other[name]), name


def same_bits(ours: Tensor, theirs: Tensor) -> bool:
    return ours.dtype == theirs.dtype and torch.equal(ours, theirs)
