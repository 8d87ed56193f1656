"""Open a model from disk, whatever its format: dense, Heddle's own, or what a run left."""

from pathlib import Path

from heddle.errors import WeightsError
from heddle.weights.contents import Checkpoint
from heddle.weights.dense import open_dense
from heddle.weights.native import DESCRIPTION, read_native
from heddle.weights.store import checkpoints

__all__ = ["PUBLISHED", "Checkpoint", "open_checkpoint"]

PUBLISHED = "model"  # the folder in a finished run's folder


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a `.gguf` file, a Hugging Face folder, one of ours or a run's, tensors still unread.

    Raises WeightsError, which names file and field, for anything missing, corrupt or unsupported.
    """
    if (path / PUBLISHED / DESCRIPTION).is_file():
        path = path / PUBLISHED
    if (path / DESCRIPTION).is_file():
        return read_native(path)
    if checkpoints(path):
        raise WeightsError(
            f"{path}: a run that has left no model yet: finish it with --resume, or write its "
            f"newest checkpoint with `heddle export {path} --out FOLDER`"
        )
    return open_dense(path)
