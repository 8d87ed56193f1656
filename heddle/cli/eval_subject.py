"""A model that `eval` can question: behind a server's address, or loaded into this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from heddle import __version__
from heddle.cli.download import fetched
from heddle.cli.engine_scorer import EngineScorer
from heddle.cli.local_server import loaded, serving
from heddle.client.http import HttpModel
from heddle.client.model import Think
from heddle.engine.config import EngineConfig
from heddle.errors import ConfigError
from heddle.evals.run import Subject


@contextmanager
def questioned(spec: str, config: EngineConfig, think: Think | None) -> Iterator[Subject]:
    """Give a model until the block ends. What it writes comes from a server, in any case.

    Raises ConfigError when it cannot think so deep.
    """
    if spec.startswith(("http://", "https://")):
        with HttpModel(spec) as model:
            yield Subject(
                name=model.name, model=model, scorer=model, think=think, identity={"server": spec}
            )
        return
    with (
        loaded(fetched(spec), config) as engine,
        serving(engine) as url,
        HttpModel(url) as model,
    ):
        if isinstance(think, int) and think > engine.max_loops:
            raise ConfigError(f"{model.name} passes at most {engine.max_loops} loops, not {think}")
        yield Subject(
            name=model.name,
            model=model,
            scorer=EngineScorer(engine),
            think=think,
            identity={
                "weights": _fingerprint(engine.checkpoint.path),
                "context_length": engine.context_length,
                "kernels": engine.kernels,
                "dtype": config.dtype,
                "version": __version__,
            },
        )


def _fingerprint(path: Path) -> list[Any]:
    """Return what changes when a model's files do."""
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    told = [each.stat() for each in files]
    return [
        str(path.resolve()),
        sum(each.st_size for each in told),
        max(each.st_mtime_ns for each in told),
    ]
