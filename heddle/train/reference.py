"""What an objective takes from its run's start: how it writes chats, and what it would have said.

Called by `sft`, and by `preference` and `rl`, which compare a model in training with its start.
"""

import torch
from torch import Tensor

from heddle.errors import ConfigError
from heddle.model.transformer import Transformer
from heddle.text.chat import ChatFormat
from heddle.text.tokenizer import Tokenizer
from heddle.train.answers import Answers, log_probs
from heddle.train.teacher import beside
from heddle.weights.contents import Checkpoint


def needs_start(start: Checkpoint | None, what: str) -> Checkpoint:
    """Return `start`; raises ConfigError, naming the objective, without one."""
    if start is None:
        raise ConfigError(f"{what} goes on from a trained model: say which with --set start=...")
    return start


def check_context(start: Checkpoint, max_tokens: int) -> None:
    """Raise ConfigError when sequences may become longer than a checkpoint's network can read."""
    if max_tokens > start.config.context_length:
        raise ConfigError(
            f"max_tokens is {max_tokens}, and {start.name} reads {start.config.context_length} "
            "tokens at most: lower it"
        )


def chat_format(start: Checkpoint) -> ChatFormat:
    """Return how a checkpoint wants chats written."""
    return ChatFormat(
        start.chat_template,
        Tokenizer(start.tokenizer_json),
        bos_id=start.bos_id,
        eos_ids=start.eos_ids,
        add_bos=start.add_bos,
    )


@torch.no_grad()
def reference_log_probs(reference: Transformer, answers: Answers, model: Transformer) -> Tensor:
    """Return what `log_probs` does of a frozen model, by experts of its own choice.

    It is moved to where `model`, the one in training, computes.
    """
    free = answers._replace(packed=answers.packed._replace(replay_TRYE=None))
    return log_probs(beside(reference, model), free)[0]
