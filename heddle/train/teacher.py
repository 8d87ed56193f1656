"""A teacher: a network that is only read, wherever and in whatever precision its student learns.

Called by `distill` and `retention`.
"""

import torch

from heddle.model.batch import Depth
from heddle.model.config import ModelConfig
from heddle.model.transformer import Transformer
from heddle.train.initial import first_network
from heddle.weights.contents import Checkpoint


def frozen(checkpoint: Checkpoint) -> Transformer:
    """Return a checkpoint's network, float32 and on the CPU, to be read only."""
    return first_network(checkpoint.config, checkpoint, seed=0).requires_grad_(False).eval()


def beside(teacher: Transformer, student: Transformer) -> Transformer:
    """Move the teacher to where the student computes, and to its precision."""
    like = student.embed.weight
    if teacher.embed.weight.device != like.device or teacher.embed.weight.dtype != like.dtype:
        teacher.to(like.device)
        for parameter in teacher.parameters():
            parameter.data = parameter.data.to(like.dtype)
    return teacher


def most_loops(config: ModelConfig) -> int:
    """Return how often a network can pass its thinking block."""
    return config.think.max_loops if config.think else 1


def deeper(depth: Depth, *, student_loops: int, teacher_loops: int) -> Depth:
    """Return the loops of a teacher that a student's stand for.

    One stands for one and `student_loops`, its most, for `teacher_loops`; between them they grow
    evenly, so that each of the student's loops is worth several.
    """
    share_T = torch.ones(len(depth.max_T))
    if student_loops > 1:
        share_T = (depth.max_T - 1) / (student_loops - 1)
    return depth._replace(max_T=1 + (share_T * (teacher_loops - 1)).round().long())
