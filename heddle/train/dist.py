"""Several processes as one: ranks, what they tell each other, tensors and files that they share.

Started by `torchrun`, one process a device; without it a world of one, in which every function here
does nothing. Every rank reads the same data and takes its share of each step's micro-batches, so
that the result does not depend on how many ranks there are, but for the order of sums.
"""

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as torch_dist
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.distributed_c10d import get_node_local_rank
from torch.distributed.tensor import DTensor, Replicate

from heddle.errors import TrainingError


class World(NamedTuple):
    """This process's number and how many there are."""

    rank: int
    size: int


def join(*, timeout_s: float = 600) -> torch.device:
    """Join the other processes if torchrun started us, and return this one's device."""
    has_gpu = torch.cuda.is_available()
    if not torch_dist.is_torchelastic_launched():
        return torch.device("cuda" if has_gpu else "cpu")
    # On a GPU both: numbers that the host asks for must not wait for the device.
    backends = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
    torch_dist.init_process_group(backends, timeout=timedelta(seconds=timeout_s))
    if not has_gpu:
        return torch.device("cpu")
    device = torch.device("cuda", get_node_local_rank())
    torch.cuda.set_device(device)
    return device


def leave() -> None:
    """Part from the other processes."""
    if torch_dist.is_initialized():
        torch_dist.destroy_process_group()


def world() -> World:
    """Return this process's place among all."""
    if torch_dist.is_initialized():
        return World(torch_dist.get_rank(), torch_dist.get_world_size())
    return World(0, 1)


def total(values: Tensor) -> Tensor:
    """Return the sum of `values` over the ranks."""
    if world().size > 1:
        torch_dist.all_reduce(values)
    return values


def most(number: int) -> int:
    """Return the largest of the ranks' numbers."""
    if world().size > 1:
        told = torch.tensor(number)
        torch_dist.all_reduce(told, torch_dist.ReduceOp.MAX)
        number = int(told)
    return number


def gathered(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor that may be sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def scattered(whole: Tensor, *, like: Tensor) -> Tensor:
    """Return `whole`, which every rank has, sharded as `like` is, unless it is already."""
    if not isinstance(like, DTensor) or isinstance(whole, DTensor):
        return whole
    mesh = like.device_mesh
    replicated = DTensor.from_local(
        whole.to(like.device), mesh, [Replicate()] * mesh.ndim, run_check=False
    )
    return replicated.redistribute(placements=like.placements)


def is_sharded(tensors: Mapping[str, Tensor]) -> bool:
    """Say whether each rank holds but a part of these tensors."""
    return any(isinstance(tensor, DTensor) for tensor in tensors.values())


def agree_on_path(path: Path | None) -> Path:
    """Return rank 0's `path` on every rank."""
    if world().size > 1:
        told: list[Any] = [path]
        torch_dist.broadcast_object_list(told)
        path = told[0]
    assert path is not None, "rank 0 has a path"
    return path


def save_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write this rank's part of `tensors`; returns on every rank when all have written."""
    save(dict(tensors), checkpoint_id=folder)


def load_shards(folder: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read what any number of ranks wrote, each tensor sharded as the one of its name in `like`.

    An optimiser's PARAMETER:KEY follows its parameter if it has that shape, and is whole otherwise.
    """
    described = FileSystemReader(folder).read_metadata().state_dict_metadata
    tensors: dict[str, Tensor] = {}
    for name, description in described.items():
        assert isinstance(description, TensorStorageMetadata), f"{name} is not a tensor"
        model = like.get(name.partition(":")[0])
        dtype = description.properties.dtype
        if model is not None and model.shape == description.size:
            tensors[name] = torch.empty_like(model, dtype=dtype)
        else:
            tensors[name] = torch.empty(description.size, dtype=dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(tensors, checkpoint_id=folder, no_dist=world().size == 1)
    return tensors


@contextmanager
def lost_process_is_an_error() -> Iterator[None]:
    """Turn the failure of a collective whose other side died into a TrainingError."""
    try:
        yield
    except RuntimeError as error:
        told = str(error).lower()
        lost = isinstance(error, torch_dist.DistError) or "gloo" in told or "nccl" in told
        if world().size == 1 or not lost:
            raise
        if torch_dist.group.WORLD:
            torch_dist.group.WORLD.abort()
            # PyTorch joins gloo's threads with the interpreter's lock held, which they need to let
            # go of their tensors: give them time to do so first.
            time.sleep(1)
        raise TrainingError(
            "another process of this run has stopped; its own message says why; start all of them "
            "again with --resume"
        ) from error
