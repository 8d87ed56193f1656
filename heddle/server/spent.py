"""What a request's tokens took in loops, clusters and arithmetic, and how each one was read."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from heddle.engine.request import Compute, TokenEvent
from heddle.text.detokenizer import Detokenizer
from heddle.text.tokenizer import Tokenizer

NUM_DIGITS = 4


class Spent:
    """The `usage.compute` object: what all answers of one request took together."""

    def __init__(self, clusters: tuple[str, ...]):
        self.flops = 0.0
        self._loops: Counter[int] = Counter()
        self._num_loops = 0
        self._deepest_flops = 0.0
        self._clusters = clusters
        self._mass = [0.0] * len(clusters)
        self._param_uses = 0.0

    def add(self, compute: Compute) -> None:
        """Add what one answer took; means are weighed by its tokens."""
        num_tokens = sum(compute.loops.values())
        self._loops.update(compute.loops)
        self._num_loops += compute.num_loops
        self.flops += compute.flops
        self._deepest_flops += compute.deepest_flops
        self._param_uses += compute.active_params * num_tokens
        for index, share in enumerate(compute.clusters):
            self._mass[index] += share * num_tokens

    def as_json(self) -> dict[str, Any]:
        """Return the object; every token counts that was computed, those of the prompt too."""
        num_tokens = self._loops.total() or 1
        mass = [total / num_tokens for total in self._mass]
        return {
            "mean_loops": round(self._num_loops / num_tokens, NUM_DIGITS),
            "loops": {str(loops): self._loops[loops] for loops in sorted(self._loops)},
            "clusters": _by_name(self._clusters, mass),
            "active_params": round(self._param_uses / num_tokens),
            "flops": round(self.flops),
            "deepest_flops": round(self._deepest_flops),
        }


class Routing:
    """The `routing` of one answer, in pieces: the texts of its tokens joined are what it wrote.

    A token that ends inside a character has no text; the one that completes it has all of it. Only
    a character that the answer's end cuts through is in no token.
    """

    def __init__(self, tokenizer: Tokenizer, clusters: tuple[str, ...]):
        self._detokenizer = Detokenizer(tokenizer, skip_special=False)
        self._clusters = clusters

    def read(self, tokens: Sequence[TokenEvent]) -> list[dict[str, Any]]:
        """Return an entry a token."""
        return [
            {
                "token": self._detokenizer.push(token.token_id),
                "loops": token.loops,
                "clusters": _by_name(self._clusters, token.clusters),
            }
            for token in tokens
        ]


def _by_name(clusters: Sequence[str], shares: Sequence[float]) -> dict[str, float]:
    return {name: round(share, NUM_DIGITS) for name, share in zip(clusters, shares, strict=True)}
