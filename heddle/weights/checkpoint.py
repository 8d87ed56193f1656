"""Open a model from disk, whatever its format: dense, or a delta over a dense one."""

from pathlib import Path

from heddle.weights.contents import Checkpoint
from heddle.weights.delta import DESCRIPTION, read_delta
from heddle.weights.dense import open_dense

__all__ = ["Checkpoint", "open_checkpoint"]


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a `.gguf` file, a Hugging Face folder or a delta without reading its tensors.

    Raises WeightsError, which names file and field, for anything missing, corrupt or unsupported.
    """
    if (path / DESCRIPTION).is_file():
        return read_delta(path)
    return open_dense(path)
