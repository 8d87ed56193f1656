from heddle.cli.talk import describe_speed
from heddle.client.model import Delta, Timings, Usage


def test_speed_is_told_as_far_as_it_is_known():
    usage = Usage(num_prompt_tokens=3, num_new_tokens=42)
    timings = Timings(first_token_s=0.254, tokens_per_s=58.31)
    assert describe_speed(Delta()) == ""
    assert describe_speed(Delta(usage=usage)) == "42 tokens"
    told = describe_speed(Delta(usage=usage, timings=timings))
    assert told == "42 tokens · 58.3 tokens/s · first after 0.25 s"
