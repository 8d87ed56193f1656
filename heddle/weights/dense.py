"""Open a dense model from disk, whatever its format. Called by `checkpoint`, `delta` and `hub`."""

from pathlib import Path

from heddle.errors import ConfigError, WeightsError
from heddle.weights.contents import Checkpoint
from heddle.weights.folder import read_folder
from heddle.weights.gguf import read_gguf


def open_dense(path: Path) -> Checkpoint:
    """Open a `.gguf` file or a Hugging Face folder without reading its tensors.

    Raises WeightsError, which names file and field, for anything missing, corrupt or unsupported.
    """
    try:
        if path.is_dir():
            return read_folder(path)
        if path.suffix == ".gguf":
            return read_gguf(path)
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    raise WeightsError(f"{path}: neither a .gguf file nor a folder with config.json")
