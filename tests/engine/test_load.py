"""From a checkpoint to a network: how matrices are packed."""

import pytest
import torch

from heddle.engine.load import load_model
from heddle.kernels.cpu import Kernels, available
from heddle.kernels.packing import PackedMatrix, pack
from heddle.weights.checkpoint import open_checkpoint
from tests.weights.gguf_files import write_gguf


@pytest.mark.skipif(not available(), reason="no C++ compiler was there at installation")
def test_one_thread_packs_and_their_number_stays(tmp_path, monkeypatch):
    seen = set()

    def watched(*arguments) -> PackedMatrix:
        seen.add(torch.get_num_threads())
        return pack(*arguments)

    monkeypatch.setattr("heddle.engine.native.pack", watched)
    checkpoint = open_checkpoint(write_gguf(tmp_path / "tiny.gguf", format="Q4_1"))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        load_model(checkpoint, dtype="float32", kernels=Kernels(available()[0], num_threads=1))
        assert seen == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
