import pytest

from heddle.bench.measure import (
    DECODE,
    MEASUREMENTS,
    TTFT,
    Comparison,
    Contender,
    Timing,
    percentile,
    prompt_ids,
)
from heddle.bench.report import comparison_report
from heddle.bench.worker import timed
from heddle.errors import EngineError

OURS = Contender("heddle", "0", "float32", 512)
PEER = Contender("peer", "1", "float32", 512)


def timing(first_s: float, rest_s: float, *, idle_cpu_s: float = 0.0) -> Timing:
    return Timing(first_s, rest_s, 96, list(range(97)), idle_cpu_s)


def test_prompts_are_fixed_and_share_no_prefix():
    first, again, other = (prompt_ids(512, 64, seed=seed) for seed in ("1", "1", "2"))
    assert first == again
    assert first[0] != other[0]
    assert all(256 <= token < 512 for token in first)


def test_prompts_of_one_measurement_differ_from_the_first_token_on():
    rounds = [prompt_ids(49152, 64, seed=f"{DECODE.name} {index}") for index in range(20)]
    assert len({prompt[0] for prompt in rounds}) == 20


@pytest.mark.parametrize(("percent", "value"), [(0.5, 50), (0.25, 25), (0.95, 95)])
def test_percentile(percent, value):
    assert percentile([float(each) for each in range(101)], round(percent * 100)) == value


def test_percentile_of_one():
    assert percentile([3.0], 95) == 3.0


def test_a_ratio_above_1_means_that_ours_is_better():
    rounds = ((timing(0.1, 1.0), timing(0.2, 2.0)),) * 3
    assert Comparison(DECODE, (OURS, PEER), rounds).ratios() == [2.0] * 3
    assert Comparison(TTFT, (OURS, PEER), rounds).ratios() == [2.0] * 3


def test_idle_share_shows_a_contender_that_spins():
    rounds = ((timing(0.5, 0.5, idle_cpu_s=1.8), timing(0.5, 0.5)),) * 2
    comparison = Comparison(DECODE, (OURS, PEER), rounds)
    assert comparison.idle_share(0) == pytest.approx(1.8)
    assert comparison.idle_share(1) == 0


def test_report_holds_medians_ratio_and_conditions():
    rounds = tuple((timing(0.1, 1.0 + index), timing(0.2, 4.0)) for index in range(3))
    report = comparison_report(
        [Comparison(DECODE, (OURS, PEER), rounds)], threads=2, model="m.gguf"
    )
    assert report["ours"] == 48.0 and report["peer"] == 24.0 and report["ratio"] == 2.0
    assert report["ratio_low"] < report["ratio"] < report["ratio_high"]
    assert report["same_tokens"] == 1.0 and report["peer_name"] == "peer"
    assert report["rounds"] == 3 and report["environment"]["cores"] >= 1


def test_report_of_ours_alone():
    rounds = ((timing(0.1, 1.0),),)
    report = comparison_report([Comparison(DECODE, (OURS,), rounds)], threads=1, model="m.gguf")
    assert report["peer"] is None and report["peer_name"] is None and report["ratio"] is None


def test_every_measurement_reads_its_own_lengths():
    for measurements in MEASUREMENTS.values():
        for each in measurements:
            value = each.value(Timing(1.0, 1.0, each.num_new_tokens - 1, [0], 0.0))
            assert value in (each.num_prompt_tokens, each.num_new_tokens - 1, 1000.0)


def test_streams_count_from_when_all_have_begun_until_one_is_complete():
    found = [([1.0, 2.0, 3.0], [5, 6, 7]), ([1.5, 2.5, 3.5], [8, 9, 10])]
    streams = timed(found, started=0.5, idle_cpu_s=0.0)
    assert (streams.first_s, streams.rest_s, streams.num_rest) == (1.0, 1.5, 3)
    assert streams.tokens == [5, 6, 7, 8, 9, 10]
    late = [([1.0, 2.0], [5, 6]), ([3.0, 4.0], [7, 8])]
    with pytest.raises(EngineError, match="side by side"):
        timed(late, started=0.5, idle_cpu_s=0.0)
