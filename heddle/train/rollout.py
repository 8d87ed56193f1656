"""A model in training answers prompts, and writes down how: what reinforcement learning reads.

With each token drawn comes its log-probability; of each token read, how often it passed the
thinking block and which experts it took. Training replays these: where weights are newer, or sums
only run in another order, routers may choose otherwise, and the log-probability of the same token
is then another network's (arXiv:2510.11370). Called by `rl`.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from heddle.model.batch import Depth, Trace
from heddle.model.config import ModelConfig
from heddle.model.transformer import Transformer
from heddle.train.adaptive import choice_layers
from heddle.train.answers import Answer, Answers, pack_answers
from heddle.train.lockstep import read_along


class Rollouts(NamedTuple):
    """S answers with their prompts, and how the model came to them.

    Attributes:
        texts: prompts and answers.
        answers: the same, packed, to be read again with the loops and the experts of the drawing.
        log_prob_N: of each answer's token when it was drawn.
        is_ended_S: whether an answer came to its end.
    """

    texts: list[Answer]
    answers: Answers
    log_prob_N: Tensor
    is_ended_S: Tensor


@torch.no_grad()
def roll_out(
    model: Transformer,
    prompts: Sequence[list[int]],
    *,
    end_ids: Collection[int],
    max_tokens: int,
    loops: int = 1,
    auto: bool = False,
) -> Rollouts:
    """Draw an answer to each prompt from the model's own distribution, by PyTorch's generator.

    An answer ends with one of `end_ids`, or when it has `max_tokens` tokens together with its
    prompt, which must be shorter and not empty. `auto` lets tokens decide on their loops, up to
    `loops`. All is read exactly, whatever the network has for summaries.
    """
    texts, last = [list(prompt) for prompt in prompts], [0] * len(prompts)
    notes = _Notes(model.config, num_seqs=len(texts), max_tokens=max_tokens, loops=loops)
    steps = read_along(model, texts, max_tokens=max_tokens, loops=loops, auto=auto)
    for position, (alive, out) in enumerate(steps):
        log_prob_SV = out.logits_NV.log_softmax(-1)
        token_S1 = torch.multinomial(log_prob_SV.exp(), 1)
        notes.add(alive, position, log_prob_SV.gather(-1, token_S1)[:, 0], out.trace)
        for number, token in zip(alive, token_S1[:, 0].tolist(), strict=True):
            if position + 1 < len(texts[number]):
                continue
            last[number] = token
            if token not in end_ids and position + 2 < max_tokens:
                texts[number].append(token)
    answered = [
        Answer([*text, token], len(prompt))
        for text, token, prompt in zip(texts, last, prompts, strict=True)
    ]
    is_ended_S = torch.tensor([token in end_ids for token in last])
    return notes.collected(answered, is_ended_S, model.embed.weight.device)


class _Notes:
    """What was seen at each place of S sequences that grow together."""

    def __init__(self, config: ModelConfig, *, num_seqs: int, max_tokens: int, loops: int):
        self._config = config
        shape = (num_seqs, max_tokens - 1)
        self._log_prob_SL = torch.zeros(shape)
        self._loops_SL = torch.ones(shape, dtype=torch.long)
        self._chosen_SLRYE = None
        if config.fabric:
            choices = (loops, config.num_layers, len(config.fabric.experts))
            self._chosen_SLRYE = torch.zeros(*shape, *choices, dtype=torch.bool)

    def add(self, alive: list[int], position: int, log_prob_S: Tensor, trace: Trace) -> None:
        """Write down a step of the sequences that are alive."""
        self._log_prob_SL[alive, position] = log_prob_S.cpu()
        if trace.loops_T is not None:
            self._loops_SL[alive, position] = trace.loops_T.cpu()
        if self._chosen_SLRYE is not None:
            chosen_TRYE = chosen_experts(self._config, trace).cpu()
            self._chosen_SLRYE[alive, position, : chosen_TRYE.shape[1]] = chosen_TRYE

    def collected(self, texts: list[Answer], is_ended_S: Tensor, device: torch.device) -> Rollouts:
        """Return all that was written down, in the order of the packed tokens."""
        num_read_S1 = torch.tensor([[len(text.tokens) - 1] for text in texts])
        first_S1 = torch.tensor([[text.num_prompt - 1] for text in texts])
        place_L = torch.arange(self._log_prob_SL.shape[1])
        is_read_SL = place_L < num_read_S1
        answers = pack_answers(texts, device=device)
        loops_T = self._loops_SL[is_read_SL].to(device)
        packed = answers.packed._replace(
            depth=Depth(loops_T, torch.zeros_like(loops_T, dtype=torch.bool))
        )
        if self._chosen_SLRYE is not None:
            packed = packed._replace(replay_TRYE=self._chosen_SLRYE[is_read_SL].to(device))
        return Rollouts(
            texts,
            answers._replace(packed=packed),
            self._log_prob_SL[is_read_SL & (place_L >= first_S1)].to(device),
            is_ended_S.to(device),
        )


def chosen_experts(config: ModelConfig, trace: Trace) -> Tensor:
    """Return from a trace which experts each token took in each loop and layer, (T, R, Y, E)."""
    layers = choice_layers(config, len(trace.choices))
    num_tokens, num_experts = trace.choices[0].weight_TE.shape
    num_loops = max(Counter(layers).values())
    chosen_TRYE = torch.zeros(
        num_tokens,
        num_loops,
        config.num_layers,
        num_experts,
        dtype=torch.bool,
        device=trace.choices[0].weight_TE.device,
    )
    loops = Counter[int]()
    for layer, choice in zip(layers, trace.choices, strict=True):
        loop = loops[layer]
        loops[layer] += 1
        rows = slice(None) if loop == 0 or trace.loops_T is None else trace.loops_T > loop
        chosen_TRYE[rows, loop, layer] = choice.weight_TE > 0
    return chosen_TRYE
