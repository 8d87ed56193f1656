"""Engines on tiny networks of every kind, which must leave no page behind."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from heddle.engine.config import EngineConfig
from heddle.engine.engine import Engine
from heddle.weights.checkpoint import open_checkpoint
from tests.model.test_adaptive import lively
from tests.model.test_memory import CONFIG, INDEXED, PAGED, forgetful
from tests.tiny import save_tiny, tiny_config, tiny_model

MODELS = {
    "dense": tiny_model(tiny_config()),
    "loops": forgetful(replace(CONFIG, memory=None, fabric=None)),
    "experts": lively(replace(CONFIG, memory=None)),
    "memory": forgetful(),
    "pages": forgetful(PAGED),
    "index": forgetful(INDEXED),
}


@pytest.fixture
def engine_for(tmp_path) -> Iterator[Callable[..., Engine]]:
    """A function that starts an engine on the network of a kind, with other settings."""
    engines: list[Engine] = []

    def start(kind: str = "dense", **settings) -> Engine:
        model = MODELS[kind]
        checkpoint = replace(
            open_checkpoint(save_tiny(tmp_path / kind)),
            config=model.config,
            tensors={name: [tensor] for name, tensor in model.state_dict().items()},
        )
        engines.append(Engine(checkpoint, EngineConfig(threads=1, **settings)))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()
        engine._cache.check()
        assert engine.stats().num_used_pages == 0
