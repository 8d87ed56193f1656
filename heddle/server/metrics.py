"""What /metrics tells Prometheus: the server's own counts, and the engine's as they stand."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from heddle.engine.engine import EngineStats

FIRST_TOKEN_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
GAP_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
GAUGE, COUNTER = GaugeMetricFamily, CounterMetricFamily
# (field of EngineStats, metric, its kind, its help)
ENGINE_METRICS = (
    ("num_running", "heddle_engine_running", GAUGE, "Sequences being generated"),
    ("num_waiting", "heddle_engine_waiting", GAUGE, "Sequences in the queue"),
    ("num_pages", "heddle_engine_pages", GAUGE, "Pages of the cache"),
    ("num_used_pages", "heddle_engine_used_pages", GAUGE, "Pages that running sequences hold"),
    ("num_remembered_pages", "heddle_engine_remembered_pages", GAUGE, "Pages findable by prefix"),
    ("num_steps", "heddle_engine_steps", COUNTER, "Forward passes"),
    ("num_preempted", "heddle_engine_preempted", COUNTER, "Sequences put back for want of pages"),
    ("num_guessed_tokens", "heddle_engine_guessed_tokens", COUNTER, "Tokens run on a guess"),
    ("num_true_guesses", "heddle_engine_true_guesses", COUNTER, "Those of them that held"),
    ("num_loops", "heddle_engine_loops", COUNTER, "Passes of tokens through the thinking block"),
    ("flops", "heddle_engine_flops", COUNTER, "Floating-point operations"),
    ("uptime_s", "heddle_engine_uptime_seconds", GAUGE, "Time since the engine started"),
)  # fmt: skip


class _EngineCollector(Collector):
    """Reads the engine at each scrape."""

    def __init__(self, stats: Callable[[], EngineStats]):
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        for field, name, family, help in ENGINE_METRICS:
            yield family(name, help, value=getattr(stats, field))


class Metrics:
    """The counts of one application, in a registry of its own."""

    def __init__(self, engine_stats: Callable[[], EngineStats]):
        self.registry = CollectorRegistry()
        self.registry.register(_EngineCollector(engine_stats))
        self.requests = Counter(
            "heddle_requests", "Requests answered", ("route", "status"), registry=self.registry
        )
        self.open_requests = Gauge(
            "heddle_open_requests", "Requests under way", registry=self.registry
        )
        self.prompt_tokens = Counter("heddle_prompt_tokens", "Tokens read", registry=self.registry)
        self.cached_tokens = Counter(
            "heddle_cached_tokens",
            "Tokens read that the cache already held",
            registry=self.registry,
        )
        self.new_tokens = Counter("heddle_new_tokens", "Tokens written", registry=self.registry)
        self.first_token = Histogram(
            "heddle_time_to_first_token_seconds",
            "From the request to its first token",
            buckets=FIRST_TOKEN_BUCKETS_S,
            registry=self.registry,
        )
        self.token_gap = Histogram(
            "heddle_inter_token_gap_seconds",
            "From a token to the next of the same answer",
            buckets=GAP_BUCKETS_S,
            registry=self.registry,
        )

    def page(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self.registry)
