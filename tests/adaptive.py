"""A tiny adaptive model as Heddle's own folder: loops and clusters to turn, random words to say."""

from dataclasses import replace
from pathlib import Path

import torch

from heddle.weights.checkpoint import open_checkpoint
from heddle.weights.native import write_native
from tests.model.test_adaptive import FABRIC, THINK, lively
from tests.tiny import SPECIAL, save_tiny, tiny_config

MAX_LOOPS = 20


def save_adaptive(folder: Path) -> Path:
    """Write a model that stops thinking at different depths and does not end by itself."""
    think = replace(THINK, max_loops=MAX_LOOPS, block_tokens=16)
    config = tiny_config(num_layers=4, fabric=FABRIC, think=think, context_length=4096)
    model = lively(config)
    with torch.no_grad():
        # A special token whose row of the head is zero is never the likely one.
        model.embed.weight[: len(SPECIAL)] = 0
        model.gate.clusters.weight.normal_(0, 0.3)
        model.think.read.weight.normal_(0, 0.5)
    state = model.state_dict()
    del state["head.weight"]
    tensors = {name: [tensor] for name, tensor in state.items()}
    speech = open_checkpoint(save_tiny(folder.parent / f"{folder.name}-dense"))
    write_native(replace(speech, name="adaptive", config=config, tensors=tensors), folder)
    return folder
