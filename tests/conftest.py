"""What every test may ask for."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from heddle.config import DEFAULT_MODEL
from heddle.engine.engine import Engine
from heddle.weights import hub
from tests.tiny import SPECIAL, save_tiny, tiny_engine

torch.set_num_threads(1)
# A shell that starts us in the background has SIGINT ignored; children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A saved tiny model that tests read and never change."""
    return save_tiny(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="session")
def wordy_folder(tmp_path_factory) -> Path:
    """A random model that writes slowly enough to watch and does not end by itself."""
    folder = save_tiny(tmp_path_factory.mktemp("wordy"), num_layers=8, context_length=4096)
    weights = load_file(folder / "model.safetensors")
    # A special token whose row of the head is zero is never the likely one.
    weights["model.embed_tokens.weight"][: len(SPECIAL)] = 0
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.fixture
def engine(tmp_path) -> Iterator[Engine]:
    engine = tiny_engine(tmp_path / "tiny")
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def default_gguf() -> Path:
    """The default model's file, which `make test` pulls before the tests."""
    return hub.resolve(DEFAULT_MODEL)
