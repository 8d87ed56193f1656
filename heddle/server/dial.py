"""How deep a request thinks and which clusters it leans to: from its fields to the engine's terms.

Read by the chat and completions routes; `models` tells clients what there is to turn.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from heddle.engine.request import Thinking
from heddle.errors import ConfigError, RequestError
from heddle.server.failures import nearest
from heddle.server.wire import GenerationFields

EFFORT_LOOPS = {"none": 1, "minimal": 2, "low": 3, "medium": 4, "high": 8, "xhigh": 16, "max": 32}
ALIGNMENT_STRENGTH = 2.0
MAX_STEER = 4.0

Depth = int | Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a caller may ask for at most.

    `max_loops` None is whatever the model has; `max_open_tokens`, of all its requests under way
    together, None is the server's own limit and 0 is none.
    """

    max_loops: int | None = None
    steer: float = MAX_STEER
    max_open_tokens: int | None = None

    def __post_init__(self):
        if self.max_loops is not None and self.max_loops < 1:
            raise ConfigError(f"max_loops must be at least 1, not {self.max_loops}")
        if not 0 <= self.steer <= MAX_STEER:
            raise ConfigError(f"steer_bound must lie between 0 and {MAX_STEER:g}, not {self.steer}")
        if self.max_open_tokens is not None and self.max_open_tokens < 0:
            raise ConfigError(f"max_open_tokens must not be negative, not {self.max_open_tokens}")


ANYTHING = Bounds()


class DialSetting(NamedTuple):
    """Where a request has set the dials, in the engine's terms."""

    thinking: Thinking = Thinking()
    steer: tuple[float, ...] | None = None


class Dials:
    """The dials of one model; a dense one has neither loops nor clusters to steer.

    `default` is how deep a request thinks that does not say.
    """

    def __init__(self, *, model_id: str, max_loops: int, clusters: tuple[str, ...], default: Depth):
        if default != "auto" and default > max_loops:
            most = f"passes at most {max_loops} loops" if max_loops > 1 else "has no think dial"
            raise ConfigError(f"think cannot be {default}: {model_id} {most}")
        self.max_loops = max_loops
        self.clusters = clusters
        self._model_id = model_id
        self._default: Depth = default

    def read(self, body: GenerationFields, bounds: Bounds) -> DialSetting:
        """Return what a request asks for; raises RequestError where it cannot have that."""
        return DialSetting(self._thinking(body, bounds), self._steer(body, bounds))

    def card(self, bounds: Bounds) -> dict[str, Any]:
        """Return what `/v1/models` says: the range that this caller has of each dial."""
        max_loops = self._most(bounds)
        default = "auto" if self._default == "auto" else min(self._default, max_loops)
        steer = bounds.steer if self.clusters else 0.0
        return {
            "think": {"max_loops": max_loops, "default": default} if max_loops > 1 else None,
            "clusters": list(self.clusters),
            "steer_bound": steer,
            "max_alignment": min(1.0, steer / ALIGNMENT_STRENGTH),
        }

    def _most(self, bounds: Bounds) -> int:
        return min(self.max_loops, bounds.max_loops or self.max_loops)

    def _thinking(self, body: GenerationFields, bounds: Bounds) -> Thinking:
        most = self._most(bounds)
        exact = None if body.think is None else self._asked(body.think.loops, "think.loops", bounds)
        at_most = None
        if body.reasoning_effort is not None:
            loops = EFFORT_LOOPS[body.reasoning_effort]
            self._check(loops, "reasoning_effort", bounds)
            at_most = _at_most(min(loops, self.max_loops))
        if exact and at_most and exact != at_most:
            raise RequestError(
                "think and reasoning_effort ask for different depths: send one of them",
                parameter="think",
                code="invalid_value",
            )
        if self._default == "auto":
            default = _at_most(most)
        else:
            default = Thinking(max_loops=min(self._default, most))
        return exact or at_most or default

    def _asked(self, loops: Depth, parameter: str, bounds: Bounds) -> Thinking:
        """Return what `think.loops` means; "auto" takes whatever is allowed."""
        if loops == "auto":
            return _at_most(self._most(bounds))
        self._check(loops, parameter, bounds)
        if loops > self.max_loops:
            raise RequestError(
                f"{parameter}: {self._model_id} passes at most {self.max_loops} loops, not {loops}",
                parameter=parameter,
                code="invalid_value",
            )
        return Thinking(max_loops=loops)

    def _check(self, loops: int, parameter: str, bounds: Bounds) -> None:
        if loops > 1 and self.max_loops == 1:
            raise RequestError(
                f"{parameter}: {self._model_id} is a dense model without a think dial: "
                "leave it out or ask for one loop",
                parameter=parameter,
                code="no_think_dial",
            )
        if min(loops, self.max_loops) > self._most(bounds):
            raise RequestError(
                f"{parameter}: {loops} loops are more than this key's bound of {bounds.max_loops}",
                parameter=parameter,
                code="beyond_key_bound",
            )

    def _steer(self, body: GenerationFields, bounds: Bounds) -> tuple[float, ...] | None:
        """Return a number a cluster, added to the logits of its experts.

        `alignment` a adds -2a to factual and 2a to creative. Safety is raised as far as the cluster
        that is raised most: a softmax keeps its odds then, so that its share never falls.
        """
        alignment = body.alignment or 0.0
        if not body.steer and not alignment:
            return None
        field = "steer" if body.steer else "alignment"
        if not self.clusters:
            raise RequestError(
                f"{field}: {self._model_id} is a dense model without clusters to steer: "
                "leave it out",
                parameter=field,
                code="no_clusters",
            )
        steer = dict.fromkeys(self.clusters, 0.0) | self._named(body.steer or {})
        steer["factual"] -= ALIGNMENT_STRENGTH * alignment
        steer["creative"] += ALIGNMENT_STRENGTH * alignment
        _check_steer(steer, field, bounds)
        steer["safety"] = max(steer.values())
        return tuple(steer[cluster] for cluster in self.clusters)

    def _named(self, steer: dict[str, float]) -> dict[str, float]:
        for name, value in steer.items():
            where = f"steer.{name[:40]}"
            if name not in self.clusters:
                hint = nearest(name, self.clusters)
                raise RequestError(
                    f"{where}: there is no such cluster; {', '.join(self.clusters)} are{hint}",
                    parameter=where,
                    code="invalid_value",
                )
            if name == "safety" and value < 0:
                raise RequestError(
                    f"{where}: no request can lower safety: 0 is the least, not {value:g}",
                    parameter=where,
                    code="invalid_value",
                )
        return steer


def _at_most(loops: int) -> Thinking:
    """Return a bound under which each token decides; one loop leaves nothing to decide."""
    return Thinking(max_loops=loops, is_automatic=loops > 1)


def _check_steer(steer: dict[str, float], field: str, bounds: Bounds) -> None:
    name, value = max(steer.items(), key=lambda item: abs(item[1]))
    if abs(value) <= bounds.steer:
        return
    is_keys_own = bounds.steer < MAX_STEER
    whose = "this key's" if is_keys_own else "the"
    raise RequestError(
        f"{field}: {name} would be steered by {value:g}, beyond {whose} bound of {bounds.steer:g}",
        parameter=field,
        code="beyond_key_bound" if is_keys_own else "invalid_value",
    )
