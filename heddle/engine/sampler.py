"""Draw the next token of one sequence from its logits.

Order: bias, penalties, grammar, temperature, top-k, top-p, min-p, draw. Every sequence draws from
its own counter-based stream (Philox: Salmon et al. 2011), so that a seed gives the same tokens
whatever else runs.
"""

import secrets
from collections import Counter

import numpy as np
import torch
from torch import Tensor

from heddle.engine.grammar import Constraint
from heddle.engine.request import Sampling, TokenEvent, TopLogprobs
from heddle.errors import EngineError


class Sampler:
    """Draws the tokens of one sequence, in order."""

    def __init__(self, sampling: Sampling, *, prompt: tuple[int, ...]):
        self._sampling = sampling
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed % (1 << 64)
        self._random = np.random.Generator(np.random.Philox(key=seed))
        self._generated: Counter[int] = Counter()
        self._seen = torch.tensor(sorted(set(prompt))) if sampling.repetition_penalty != 1 else None
        self._bias_ids = torch.tensor(list(sampling.logit_bias), dtype=torch.long)
        self._bias = torch.tensor(list(sampling.logit_bias.values()), dtype=torch.float32)

    def draw(self, logits_V: Tensor, constraint: Constraint | None) -> TokenEvent:
        """Choose a token from float32 logits and report what was asked for about it.

        Raises EngineError for logits among which is one that is not a number.
        """
        largest = _largest(logits_V)
        if np.isnan(logits_V.numpy()[largest]):
            raise EngineError(
                "the model computed something that is not a number: its weights are corrupt, or "
                "their training went wrong"
            )
        adjusted_V = self._adjust(logits_V)
        if constraint is not None:
            adjusted_V = constraint.mask(adjusted_V)
        if self._sampling.temperature > 0:
            token_id = self._choose(adjusted_V)
        else:
            token_id = largest if adjusted_V is logits_V else _largest(adjusted_V)
        if constraint is not None:
            constraint.accept(token_id)
        self._count(token_id)
        wanted = self._sampling.num_top_logprobs
        if wanted is None:
            return TokenEvent(token_id=token_id)
        logprobs_V = logits_V.log_softmax(-1)
        return TokenEvent(
            token_id=token_id,
            logprob=float(logprobs_V[token_id]),
            top_logprobs=top_logprobs(logprobs_V, wanted),
        )

    def _count(self, token_id: int) -> None:
        self._generated[token_id] += 1
        if self._seen is not None and self._generated[token_id] == 1:
            self._seen = torch.cat([self._seen, torch.tensor([token_id])]).unique()

    def _adjust(self, logits_V: Tensor) -> Tensor:
        sampling = self._sampling
        penalises_generated = sampling.frequency_penalty != 0 or sampling.presence_penalty != 0
        if not (len(self._bias_ids) or self._seen is not None or penalises_generated):
            return logits_V
        adjusted_V = logits_V.clone()
        if self._seen is not None:
            seen = adjusted_V[self._seen]
            penalty = sampling.repetition_penalty
            adjusted_V[self._seen] = torch.where(seen > 0, seen / penalty, seen * penalty)
        if penalises_generated and self._generated:
            ids = torch.tensor(list(self._generated))
            counts = torch.tensor(list(self._generated.values()), dtype=torch.float32)
            adjusted_V[ids] -= sampling.frequency_penalty * counts + sampling.presence_penalty
        adjusted_V[self._bias_ids] += self._bias
        return adjusted_V

    def _choose(self, logits_V: Tensor) -> int:
        sampling = self._sampling
        probabilities, ids = _candidates(logits_V / sampling.temperature, sampling)
        cumulative = np.cumsum(probabilities, dtype=np.float64)
        place = np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right")
        return int(ids[min(int(place), len(ids) - 1)])


def _largest(logits_V: Tensor) -> int:
    """Return the place of the largest number, or of one that is none, sooner than PyTorch."""
    return int(logits_V.numpy().argmax())


def _candidates(scaled_V: Tensor, sampling: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities and ids that top-k, top-p and min-p leave."""
    if sampling.top_k == 0 and sampling.top_p == 1 and sampling.min_p == 0:
        return scaled_V.softmax(-1).numpy(), np.arange(len(scaled_V))
    if 0 < sampling.top_k < len(scaled_V):
        kept, ids = scaled_V.topk(sampling.top_k)
    else:
        kept, ids = scaled_V.sort(descending=True)
    probabilities = kept.softmax(-1)
    mass_before = probabilities.cumsum(-1) - probabilities
    keep = (mass_before < sampling.top_p) & (probabilities >= sampling.min_p * probabilities[0])
    keep[0] = True
    return probabilities[keep].numpy(), ids[keep].numpy()


def top_logprobs(logprobs_V: Tensor, count: int) -> TopLogprobs:
    """Return the `count` most probable tokens with their log-probabilities, most probable first."""
    values, ids = logprobs_V.topk(min(count, len(logprobs_V)))
    return tuple(zip(ids.tolist(), values.tolist(), strict=True))
