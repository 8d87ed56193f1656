"""Many sequences that grow together, a token each a step: how a model in training writes text.

All sequences stand at the same position, and a prompt is read a token a step as well, so that
nothing is padded. `Lockstep` is exact where `WholeSequences` is, and costs a step what one token of
each sequence costs. Called by `self_text`, `retention` and `rollout`.
"""

from collections.abc import Iterator, Sequence
from typing import NoReturn

import torch
from torch import Tensor

from heddle.model.batch import Depth, Out, Packed
from heddle.model.memory import attention
from heddle.model.slots import Pooler
from heddle.model.transformer import Transformer


class Lockstep:
    """The `Memory` of S sequences, each of whose next token a forward brings; all read exactly."""

    def __init__(self, *, max_tokens: int, block_tokens: int):
        self.position = 0  # of the tokens that the next forward brings
        self._max_tokens, self._block_tokens = max_tokens, block_tokens
        self._kept: dict[tuple[str, int, int], Tensor] = {}

    def attend(
        self, layer: int, q_SHC: Tensor, k_SKC: Tensor, v_SKC: Tensor, pooler: Pooler | None = None
    ) -> Tensor:
        """See `Memory.attend`."""
        k_SLKC, v_SLKC = (
            self._keep((name, layer, 1), x, self.position, self._max_tokens)
            for name, x in (("key", k_SKC), ("value", v_SKC))
        )
        return attention(q_SHC[:, None], k_SLKC, v_SLKC)[:, 0]

    def attend_again(
        self, layer: int, q_NHC: Tensor, k_NKC: Tensor, v_NKC: Tensor, *, loop: int, rows: Tensor
    ) -> Tensor:
        """See `Memory.attend_again`."""
        place, first_k_SLKC = self.position % self._block_tokens, self._kept["key", layer, 1]
        present_S = torch.zeros(len(first_k_SLKC), dtype=torch.bool, device=rows.device)
        present_S[rows] = True
        seen_SL = self._keep(("seen", layer, loop), present_S, place, self._block_tokens)
        k_NLKC, v_NLKC = (
            torch.cat(
                [
                    self._kept[name, layer, 1][rows, : self.position + 1],
                    self._keep(
                        (name, layer, loop),
                        x.new_zeros(len(present_S), *x.shape[1:]).index_copy(0, rows, x),
                        place,
                        self._block_tokens,
                    )[rows],
                ],
                dim=1,
            )
            for name, x in (("key", k_NKC), ("value", v_NKC))
        )
        first_NL = torch.ones(len(rows), self.position + 1, dtype=torch.bool, device=rows.device)
        mask_NL = torch.cat([first_NL, seen_SL[rows]], dim=1)
        return attention(q_NHC[:, None], k_NLKC, v_NLKC, mask=mask_NL[:, None, None])[:, 0]

    def part(self, rows: Tensor) -> NoReturn:
        """See `Memory.part`."""
        raise AssertionError("a token of each sequence is no more than a block of it")

    def close_blocks(self) -> None:
        """See `Memory.close_blocks`."""
        if (self.position + 1) % self._block_tokens:
            return
        here = slice(self.position + 1 - self._block_tokens, self.position + 1)
        later = sorted((loop, layer) for name, layer, loop in self._kept if name == "seen")
        for loop, layer in later:  # a later one in the place of those before it
            seen_SL = self._kept.pop(("seen", layer, loop))
            for name in ("key", "value"):
                last_SLKC = self._kept.pop((name, layer, loop))
                kept_SLKC = self._kept[name, layer, 1][:, here]
                kept_SLKC.copy_(torch.where(seen_SL[..., None, None], last_SLKC, kept_SLKC))

    def running_mean(self, x_SJ: Tensor, *, decay: float) -> Tensor:
        """See `Memory.running_mean`."""
        before_SJ = self._kept.get(("mean", 0, 0), torch.zeros_like(x_SJ))
        mean_SJ = self._kept["mean", 0, 0] = decay * before_SJ + (1 - decay) * x_SJ
        return mean_SJ

    def drop_others(self, rows_N: Tensor) -> None:
        """Go on with some of the sequences alone."""
        self._kept = {key: kept[rows_N] for key, kept in self._kept.items()}

    def _keep(self, key: tuple[str, int, int], x_S: Tensor, place: int, num_places: int) -> Tensor:
        """Write a new entry of every sequence, and return theirs up to this place."""
        if key not in self._kept:
            self._kept[key] = x_S.new_zeros(len(x_S), num_places, *x_S.shape[1:])
        kept = self._kept[key]
        kept[:, place] = x_S
        return kept[:, : place + 1]


@torch.no_grad()
def read_along(
    model: Transformer,
    texts: Sequence[list[int]],
    *,
    max_tokens: int,
    loops: int = 1,
    auto: bool = False,
) -> Iterator[tuple[list[int], Out]]:
    """Read texts side by side, a token of each a step; yield whose were read, and what came of it.

    Meanwhile the caller may lengthen texts, to less than `max_tokens`; one whose end is reached
    is left. `auto` lets tokens decide on their loops, up to `loops`. Texts must not be empty.
    """
    device, think = model.embed.weight.device, model.config.think
    memory = Lockstep(max_tokens=max_tokens, block_tokens=think.block_tokens if think else 1)
    alive = list(range(len(texts)))
    while alive:
        every_S = torch.arange(len(alive), device=device)
        packed = Packed(
            token_T=torch.tensor([texts[i][memory.position] for i in alive], device=device),
            position_T=torch.full_like(every_S, memory.position),
            bounds_S1=tuple(range(len(alive) + 1)),
            output_N=every_S,
            depth=Depth(
                torch.full_like(every_S, loops), torch.full_like(every_S, auto, dtype=torch.bool)
            ),
        )
        yield alive, model(packed, memory)
        memory.position += 1
        going = [row for row, i in enumerate(alive) if memory.position < len(texts[i])]
        if len(going) < len(alive):
            memory.drop_others(torch.tensor(going, dtype=torch.long, device=device))
            alive = [alive[row] for row in going]


def write_on(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    temperatures: Sequence[float],
    max_tokens: int,
    end_ids: Sequence[int],
    loops: int = 1,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Return the prompts, each continued to an end token or to `max_tokens` tokens in all.

    Temperature 0 takes the likeliest token. Prompts must not be empty, nor as long as `max_tokens`.
    """
    texts = [list(prompt) for prompt in prompts]
    last = [0] * len(texts)
    temperature_S = torch.tensor(temperatures, device=model.embed.weight.device)
    steps = read_along(model, texts, max_tokens=max_tokens, loops=loops)
    for position, (alive, out) in enumerate(steps):
        token_S = _draw(out.logits_NV, temperature_S[alive], generator).tolist()
        for i, token in zip(alive, token_S, strict=True):
            if position + 1 < len(texts[i]):
                continue
            last[i] = token
            if token not in end_ids and position + 2 < max_tokens:
                texts[i].append(token)
    return [[*text, token] for text, token in zip(texts, last, strict=True)]


def _draw(logits_SV: Tensor, temperature_S: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw by the exponential race, whose winner has the softmax's probability."""
    warm_S1 = temperature_S.clamp(min=1e-6)[:, None]
    race_SV = torch.empty_like(logits_SV).exponential_(generator=generator).log()
    drawn_S = (logits_SV / warm_S1 - race_SV).argmax(-1)
    return torch.where(temperature_S > 0, drawn_S, logits_SV.argmax(-1))
