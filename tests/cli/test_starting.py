"""What starting costs: modules that no server needs, and memory that it does not need any more."""

import gc
import json
import subprocess
import sys

import pytest

from heddle.cli.starting import without_collecting

HEAVY = [
    "huggingface_hub", "matplotlib", "openai", "pyarrow", "sympy", "transformers",
    "torch._dynamo", "torch._inductor", "torch.onnx",
    "heddle.bench.compare", "heddle.train.fit", "heddle.tasks.sets",
]  # fmt: skip

STARTED = """
import json, sys
from pathlib import Path
import heddle.cli.main
from heddle.cli.download import fetched
from heddle.engine.engine import Engine
from heddle.server.app import build_app
from heddle.server.main import run
from heddle.server.settings import ServerSettings

engine = Engine.load(fetched(sys.argv[1]))
build_app(engine, ServerSettings(keys_path=Path(sys.argv[2])))
print(json.dumps(list(sys.modules)))
engine.close()
"""

MEMORY = """
import json
import torch
from heddle.cli.starting import give_back_memory

def megabytes(kind):
    with open("/proc/self/status") as status:
        (line,) = (line for line in status if line.startswith(kind))
    return int(line.split()[1]) / 1000

def product():
    return torch.arange(64.0).view(8, 8) @ torch.ones(8, 8)

expected = product()
pieces = [bytearray(1000) for _ in range(64_000)]
del pieces[:-1]
before = megabytes("RssAnon"), megabytes("RssFile")
give_back_memory()
after = megabytes("RssAnon"), megabytes("RssFile")
assert torch.equal(product(), expected)
print(json.dumps([was - left for was, left in zip(before, after)]))
"""


def output_of(script: str, *arguments: object) -> list:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_server_leaves_out_what_it_does_not_need(tiny_folder, tmp_path):
    assert not set(HEAVY) & set(output_of(STARTED, tiny_folder, tmp_path / "keys.sqlite"))


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for its figures")
def test_memory_that_only_the_start_needed_goes_back():
    freed, unmapped = output_of(MEMORY)
    assert freed > 50 and unmapped > 20


def test_imports_are_collected_neither_meanwhile_nor_later():
    gc.collect()
    try:
        with without_collecting():
            assert not gc.isenabled()
            made = [{"kept": None}]
        assert gc.isenabled() and not any(each is made for each in gc.get_objects())
    finally:
        gc.unfreeze()


def test_collecting_goes_on_after_an_import_that_failed():
    try:
        with pytest.raises(ImportError), without_collecting():
            raise ImportError
        assert gc.isenabled()
    finally:
        gc.unfreeze()
