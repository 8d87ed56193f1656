"""Prompts and answers packed end to end, and the log-probabilities of the answers' tokens.

Called by `preference` and `rl`, whose losses are functions of these log-probabilities.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from heddle.model.batch import Depth, Packed, Trace
from heddle.model.memory import WholeSequences
from heddle.model.transformer import Transformer


class Answer(NamedTuple):
    """A prompt with the answer to it, and how many of these tokens are the prompt's."""

    tokens: list[int]
    num_prompt: int


class Answers(NamedTuple):
    """What a model reads of S answers, and the N tokens that it is to answer.

    Attributes:
        packed: every answer with its prompt, without its last token, which predicts nothing.
        row_N: of the packed tokens, those after which an answer's token comes.
        token_N: those tokens.
        answer_N: the answer that each belongs to, from 0 to S - 1.
    """

    packed: Packed
    row_N: Tensor
    token_N: Tensor
    answer_N: Tensor

    def means(self, value_N: Tensor) -> Tensor:
        """Return the mean over each answer's tokens, (S,)."""
        return self.sums(value_N) / self.sums(torch.ones_like(value_N))

    def sums(self, value_N: Tensor) -> Tensor:
        """Return the sum over each answer's tokens, (S,)."""
        empty_S = value_N.new_zeros(len(self.packed.bounds_S1) - 1)
        return empty_S.index_add(0, self.answer_N, value_N)


def pack_answers(answers: Sequence[Answer], *, loops: int = 1, device: torch.device) -> Answers:
    """Pack answers of a token at least to prompts of a token at least."""
    bounds, rows, answer_N = [0], [], []
    for number, answer in enumerate(answers):
        start = bounds[-1]
        bounds.append(start + len(answer.tokens) - 1)
        rows += range(start + answer.num_prompt - 1, bounds[-1])
        answer_N += [number] * (len(answer.tokens) - answer.num_prompt)
    tokens = [token for answer in answers for token in answer.tokens[:-1]]
    positions = [place for answer in answers for place in range(len(answer.tokens) - 1)]
    targets = [token for answer in answers for token in answer.tokens[answer.num_prompt :]]
    token_T, position_T, row_N, token_N, number_N = (
        torch.tensor(values, device=device)
        for values in (tokens, positions, rows, targets, answer_N)
    )
    exact = Depth(torch.full_like(token_T, loops), torch.zeros_like(token_T, dtype=torch.bool))
    packed = Packed(token_T, position_T, tuple(bounds), token_T[:0], depth=exact)
    return Answers(packed, row_N, token_N, number_N)


def log_probs(
    model: Transformer, answers: Answers, *, chunk_tokens: int = 1024
) -> tuple[Tensor, Trace]:
    """Return each answer token's log-probability, float32 (N,), and how the model read them all.

    Everything is read exactly, whatever the network has for summaries. Logits are made for a chunk
    of tokens at a time, and again in the backward pass.
    """
    think = model.config.think
    memory = WholeSequences(
        answers.packed.bounds_S1, block_tokens=think.block_tokens if think else 64
    )
    out = model(answers.packed, memory)

    def chosen(hidden_ND: Tensor, token_N: Tensor) -> Tensor:
        return model.head(hidden_ND).log_softmax(-1).gather(-1, token_N[:, None])[:, 0]

    parts = [
        checkpoint(chosen, out.hidden_TD[rows], tokens, use_reentrant=False)
        for rows, tokens in zip(
            answers.row_N.split(chunk_tokens), answers.token_N.split(chunk_tokens), strict=True
        )
    ]
    return torch.cat(parts), out.trace
