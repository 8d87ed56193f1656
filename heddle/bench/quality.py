"""How much a second copy of a model differs from the first: next-token distributions on a text.

Called by `heddle quantize`. Both are computed by PyTorch in float32 from the numbers that their
files mean, so that what differs is the weights' rounding alone.
"""

import math
from collections.abc import Callable
from importlib.resources import files
from typing import NamedTuple

import torch
from torch import Tensor

from heddle.engine.load import load_model
from heddle.errors import DataError
from heddle.model.batch import pack
from heddle.model.transformer import Transformer
from heddle.text.tokenizer import Tokenizer
from heddle.weights.checkpoint import Checkpoint

PIECE_TOKENS = 512  # a vocabulary's logits of so many tokens are 100 MB


class Quality(NamedTuple):
    """What was read, and how two models continue it.

    `mean_kl` is the mean over tokens of the divergence from the first model's distribution to the
    second's, in nats; `p99_kl` what 99 of 100 tokens do not exceed; `same_first` the share of
    tokens at which both find the same next one likeliest.
    """

    num_tokens: int
    perplexity_before: float
    perplexity_after: float
    mean_kl: float
    p99_kl: float
    same_first: float


def own_text() -> str:
    """Return the text that comes with Heddle: prose, a dialogue, lists, code, sums, letters."""
    return files("heddle.bench").joinpath("quality.txt").read_text(encoding="utf-8")


@torch.inference_mode()
def compare_models(
    before: Checkpoint,
    after: Checkpoint,
    text: str,
    *,
    max_tokens: int,
    on_piece: Callable[[int], None],
) -> Quality:
    """Read the first `max_tokens` of a text with both, in pieces that begin anew.

    `on_piece` is told how many tokens are read. Raises DataError for a text of one token or none.
    """
    tokens = Tokenizer(before.tokenizer_json).encode(text)[:max_tokens]
    size = min(PIECE_TOKENS, before.config.context_length) - 1
    begin = [before.bos_id] if before.add_bos and before.bos_id is not None else []
    pieces = [begin + tokens[first : first + size] for first in range(0, len(tokens), size)]
    pieces = [piece for piece in pieces if len(piece) > 1]
    if not pieces:
        raise DataError("the text to compare on is too short: it needs two tokens at least")
    models = [load_model(each, dtype="float32") for each in (before, after)]
    losses, divergences, agreed = ([], []), [], []
    for piece in pieces:
        first_NV, second_NV = (_log_probs(model, piece) for model in models)
        next_N1 = torch.tensor(piece[1:])[:, None]
        for log_prob_NV, found in zip((first_NV, second_NV), losses, strict=True):
            found.append(-log_prob_NV.gather(1, next_N1)[:, 0])
        agreed.append(first_NV.argmax(1) == second_NV.argmax(1))
        divergences.append((first_NV.exp() * second_NV.sub_(first_NV).neg_()).sum(1))
        on_piece(len(piece))
    kl_N = torch.cat(divergences)
    before_loss, after_loss = (float(torch.cat(found).double().mean()) for found in losses)
    return Quality(
        num_tokens=len(kl_N),
        perplexity_before=math.exp(before_loss),
        perplexity_after=math.exp(after_loss),
        mean_kl=float(kl_N.double().mean()),
        p99_kl=float(kl_N.quantile(0.99)),
        same_first=float(torch.cat(agreed).float().mean()),
    )


def _log_probs(model: Transformer, piece: list[int]) -> Tensor:
    """Return the distribution behind each token but the last."""
    logits_NV = model(pack([piece])).logits_NV[:-1]
    return logits_NV.sub_(logits_NV.logsumexp(1, keepdim=True))  # a copy may be a hundred MB
