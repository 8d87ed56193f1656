from dataclasses import replace

from heddle.cli.talk import describe_speed
from heddle.client.model import Compute, Delta, Timings, Usage


def test_speed_is_told_as_far_as_it_is_known():
    usage = Usage(num_prompt_tokens=3, num_new_tokens=42)
    timings = Timings(first_token_s=0.254, tokens_per_s=58.31)
    assert describe_speed(Delta()) == ""
    assert describe_speed(Delta(usage=usage)) == "42 tokens"
    told = describe_speed(Delta(usage=usage, timings=timings))
    assert told == "42 tokens · 58.3 tokens/s · first after 0.25 s"


def test_depth_is_told_of_those_that_have_it():
    shallow = Compute(
        mean_loops=1.0, loops={1: 5}, clusters={}, active_params=9, flops=2.5e9, deepest_flops=2.5e9
    )
    deep = replace(shallow, mean_loops=3.25)
    for compute, words in ((shallow, "2.5 GFLOP"), (deep, "3.2 loops a token · 2.5 GFLOP")):
        usage = Usage(num_prompt_tokens=3, num_new_tokens=2, compute=compute)
        assert describe_speed(Delta(usage=usage)) == f"2 tokens · {words}"
