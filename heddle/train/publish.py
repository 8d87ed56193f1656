"""From a run's newest checkpoint to a model that is served. Called by `run` and `heddle export`.

A run over a dense start leaves a delta: what was trained, and which start it belongs to. Any other
run leaves a whole model.
"""

from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from heddle.errors import WeightsError
from heddle.train import dist
from heddle.train.initial import first_network
from heddle.train.stage import Stage
from heddle.weights import store
from heddle.weights.atomic import new_folder
from heddle.weights.checkpoint import PUBLISHED, open_checkpoint
from heddle.weights.configuration import config_from_json
from heddle.weights.contents import Checkpoint, count_words, model_name
from heddle.weights.fields import Fields
from heddle.weights.folder_tokenizer import CHAT_TEMPLATE, TOKENIZER, read_speech
from heddle.weights.hub import resolve
from heddle.weights.native import DESCRIPTION, tensor_shapes, with_base, write_native

SPEECH = "speech"  # the folder in a run's folder with tokenizer and template


def keep_speech(folder: Path, stage: Stage) -> None:
    """Put a stage's tokenizer and chat template into its run's folder."""
    if stage.tokenizer is None:
        return
    with new_folder(folder / SPEECH, overwrite=True) as unfinished:
        (unfinished / TOKENIZER).write_text(stage.tokenizer, encoding="utf-8")
        if stage.chat_template is not None:
            template = unfinished / CHAT_TEMPLATE
            template.write_text(stage.chat_template, encoding="utf-8")


def publish(folder: Path) -> Path:
    """Write a run's newest checkpoint as a model into its folder, in place of an earlier one.

    Raises WeightsError as `trained_model` does, StorageError when it cannot be written.
    """
    target = folder / PUBLISHED
    write_native(trained_model(folder), target, overwrite=True)
    return target


def trained_model(folder: Path) -> Checkpoint:
    """Return the model that a run's newest checkpoint makes of its start.

    Raises WeightsError when there is no checkpoint, when it is damaged, or without a tokenizer.
    """
    saved = store.checkpoints(folder)
    if not saved:
        raise WeightsError(f"{folder}: no checkpoint to make a model of")
    settings = Fields(saved[-1] / "state.json", store.read_record(saved[-1]).configuration)
    config = config_from_json(settings.path, settings.get("model", dict))
    start = _start(settings.find("start", str))
    trained = _trained(saved[-1])
    network = first_network(config, start, seed=settings.get("fit", dict)["seed"])
    state = network.state_dict() | trained
    tensors = {name: [state[name]] for name in tensor_shapes(config)}
    num_parameters = sum(parts[0].numel() for parts in tensors.values())
    common = {
        "name": model_name(folder.resolve()),
        "path": folder,
        "config": config,
        "tensors": tensors,
        "size_bytes": sum(parts[0].nbytes for parts in tensors.values()),
        "description": f"trained, {count_words(num_parameters)}",
    }
    speaks = (folder / SPEECH).is_dir()
    if speaks:
        common |= read_speech(folder / SPEECH, Fields(folder / SPEECH, {}))._asdict()
    elif start is None:
        raise WeightsError(
            f"{folder}: its stage names no tokenizer, so that nobody could talk to its model"
        )
    if start is None:
        return Checkpoint(**common)
    if start.base is None:
        return replace(start, **common)
    left = start.base.supplies - trained.keys()
    base = replace(start.base, supplies=left, speaks=start.base.speaks and not speaks)
    return replace(start, **common, base=base if left else None)


def _start(spec: str | None) -> Checkpoint | None:
    """Open a run's start; a dense one is the base of what the run leaves."""
    if spec is None:
        return None
    start = open_checkpoint(resolve(spec))
    if start.base is None and not (start.path / DESCRIPTION).is_file():
        return with_base(start, spec)
    return start


def _trained(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint's weights and buffers, whole even where ranks wrote their parts."""
    shards = path / store.SHARDS
    if not shards.exists():
        return load_file(path / "model.safetensors")
    read = dist.load_shards(shards, {})
    return {name: tensor for name, tensor in read.items() if ":" not in name}
