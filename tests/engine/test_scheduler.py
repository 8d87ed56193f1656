"""Who runs next and how much: turns between tenants, room between prompts, times learnt."""

import math
import random
from itertools import count

import pytest

from heddle.engine.config import EngineConfig
from heddle.engine.pace import Load, Pace
from heddle.engine.request import Request, Sampling, TokenEvent
from heddle.engine.room import LEAST_TOKENS, Room
from heddle.engine.sampler import Sampler
from heddle.engine.sequence import Sequence, Work
from heddle.engine.spending import Spending
from heddle.engine.waiting import MAX_TENANTS, Waiting
from heddle.errors import ConfigError
from tests.engine.collect import ask
from tests.tiny import tiny_config

PROMPT = list(range(5, 45))
_arrivals = count()


def sequence(num_tokens: int = 10, **fields) -> Sequence:
    request = Request(request_id="test", prompt=tuple([7] * num_tokens), max_new_tokens=4, **fields)
    return Sequence(
        request=request,
        on_event=lambda event: None,
        sampler=Sampler(Sampling(), prompt=request.prompt),
        constraint=None,
        spending=Spending(tiny_config()),
        speculation=None,
        arrival=next(_arrivals),
    )


def tenants_served(waiting: Waiting, *, num_running: int) -> str:
    """Give places to all that wait, `num_running` of which there are; the oldest ends first."""
    running: list[Sequence] = []
    order = []
    while len(waiting):
        running = running[-num_running + 1 :] if num_running > 1 else []
        admitted = waiting.in_turn(running)[0]
        waiting.take(admitted)
        running.append(admitted)
        order.append(admitted.request.tenant)
    return "".join(order)


@pytest.mark.parametrize("num_running", [1, 2, 4])
def test_tenants_take_turns(num_running):
    waiting = Waiting()
    for tenant in "aaaaaaaabc":
        waiting.add(sequence(tenant=tenant))
    order = tenants_served(waiting, num_running=num_running)
    assert sorted(order) == sorted("aaaaaaaabc")
    assert order[0] == "a" and set(order[:3]) == set("abc")


def test_two_busy_tenants_get_the_same():
    waiting = Waiting()
    for tenant in "aaaaaabbbbbb":
        waiting.add(sequence(tenant=tenant))
    assert tenants_served(waiting, num_running=1) == "abababababab"


def test_urgency_comes_before_turns():
    waiting = Waiting()
    for tenant, priority in (("a", 0), ("b", 0), ("a", 3), ("a", 3)):
        waiting.add(sequence(tenant=tenant, priority=priority))
    assert tenants_served(waiting, num_running=1) == "aaba"


def test_old_turns_are_forgotten_not_gathered():
    waiting = Waiting()
    for number in range(MAX_TENANTS + 10):
        each = sequence(tenant=str(number))
        waiting.add(each)
        waiting.take(each)
    assert len(waiting._last_turn) == MAX_TENANTS and "0" not in waiting._last_turn


def pace_of(token_s: float) -> Pace:
    """Return what is learnt of a machine on which each token of a prompt takes so long."""
    pace = Pace(tiny_config(), EngineConfig())
    for _ in range(30):
        load = pace.load([Work(sequence(200), 200)])
        pace.note(load, 200 * token_s)
    return pace


@pytest.mark.parametrize("token_s", [1e-4, 1e-3, 1e-2])
def test_a_shared_step_takes_the_time_it_should(token_s):
    shares = Room(pace_of(token_s), seconds=0.08, num_tokens=100_000).divide([sequence(5000)])
    assert sum(shares.values()) * token_s == pytest.approx(0.08, rel=0.35, abs=8 * token_s)


def test_the_first_shared_step_is_as_long_as_it_was_said():
    config = EngineConfig(shared_step_tokens=50)
    room = Room(Pace(tiny_config(), config), seconds=config.shared_step_s, num_tokens=512)
    assert sum(room.divide([sequence(5000)]).values()) == pytest.approx(50, abs=3)


def test_a_short_prompt_waits_for_no_long_one():
    long, short = sequence(4000), sequence(20)
    shares = Room(pace_of(1e-3), seconds=0.1, num_tokens=512).divide([long, short])
    assert shares[short] == 20
    assert 40 <= shares[long] <= 110


def test_a_long_prompt_is_never_starved():
    long = sequence(1000)
    for _ in range(60):
        prompts = [long, *(sequence(30) for _ in range(10))]
        share = Room(pace_of(1e-3), seconds=0.1, num_tokens=512).divide(prompts)[long]
        assert share >= min(20, long.num_pending)
        long.num_computed += share
        if not long.num_pending:
            break
    assert not long.num_pending


def test_of_equal_prompts_the_oldest_is_done_first():
    prompts = [sequence(300) for _ in range(3)]
    while prompts[0].num_pending:
        for each, num in Room(pace_of(1e-3), seconds=0.1, num_tokens=512).divide(prompts).items():
            each.num_computed += num
    assert prompts[1].num_computed < 110 and prompts[2].num_computed == 0


def test_tokens_are_shared_like_time():
    long, short = sequence(4000), sequence(100)
    shares = Room(pace_of(1e-9), seconds=10.0, num_tokens=256).divide([long, short])
    assert shares == {long: 156, short: 100}


def test_urgent_prompts_go_first():
    usual, urgent = sequence(500), sequence(500, priority=1)
    shares = Room(pace_of(1e-3), seconds=0.1, num_tokens=512).divide([usual, urgent])
    assert shares[urgent] > 50 and shares[usual] == 0


def test_a_full_step_still_has_room_for_some_tokens():
    shares = Room(pace_of(1e-3), seconds=0.0, num_tokens=512).divide([sequence(500)])
    assert sum(shares.values()) == pytest.approx(LEAST_TOKENS, abs=1)


def test_the_cost_of_rows_is_learnt_in_noise():
    pace, draw = Pace(tiny_config(), EngineConfig()), random.Random(0)
    assert pace.cost(1) == pace.cost(9)
    for step in range(600):
        num_rows = draw.choice([1, 1, 1, 2, 5, 9])
        busy = draw.uniform(0.8, 1.3) * (1 + step // 300) * (8 if draw.random() < 0.05 else 1)
        pace.note(Load(num_rows, 0.0), (0.005 + 0.001 * num_rows) * busy)
    for num_rows in (2, 3, 5, 7, 9):
        expected = (5 + num_rows) / 6
        assert pace.cost(num_rows) / pace.cost(1) == pytest.approx(expected, rel=0.25)
    assert 0.008 < pace.rows_s(1) < 0.02
    assert pace.cost(40) == pace.cost(9)


def test_one_slow_step_does_not_end_guessing():
    pace = Pace(tiny_config(), EngineConfig())
    for num_rows, seconds in ((1, 0.006), (5, 0.5), (1, 0.006)):
        pace.note(Load(num_rows, 0.0), seconds)
    assert pace.cost(5) / pace.cost(1) < 2


def test_a_longer_past_leaves_room_for_fewer_tokens():
    pace = pace_of(1e-3)
    assert pace.prompt_s(first=800, num=10) > 1.2 * pace.prompt_s(first=0, num=10)
    assert math.isclose(
        pace.prompt_s(first=0, num=30),
        pace.prompt_s(first=0, num=10) + pace.prompt_s(first=10, num=20),
    )


def test_a_running_answer_goes_on_while_a_long_prompt_is_read(engine_for):
    engine = engine_for(shared_step_s=1e-6, step_s=1e-6, shared_step_tokens=8, draft_tokens=0)
    running = ask(engine, PROMPT, 400)
    running.next()
    long = ask(engine, list(range(3, 400)), 1)
    first = long.next()
    assert isinstance(first, TokenEvent)
    num_meanwhile = 1 + running._queue.qsize()
    assert num_meanwhile > 397 // LEAST_TOKENS // 2
    engine.cancel(running.request.request_id)
    assert running.finished.reason == "cancelled"


def test_a_short_prompt_overtakes_a_long_one(engine_for):
    engine = engine_for(step_s=1e-6, shared_step_s=1e-6, shared_step_tokens=8)
    order: list[str] = []
    plain = ask(engine, PROMPT, 1).wait().request
    long = tuple(3 + place * 7 % 500 for place in range(900))
    for name, prompt in (("long", long), ("short", tuple(range(60, 80)))):
        request = Request(**{**vars(plain), "request_id": name, "prompt": prompt})
        engine.submit(request, lambda event, name=name: order.append(name))
    assert engine.drain(60)
    assert order == ["short", "short", "long", "long"]


def test_one_request_of_another_tenant_does_not_wait_for_a_hundred(engine_for):
    engine = engine_for(max_running=1)
    running = ask(engine, PROMPT, 400, tenant="many")
    running.next()
    order: list[str] = []
    for number in range(100):
        tenant = "one" if number == 99 else "many"
        request = Request(
            **{**vars(running.request), "request_id": f"{number}", "tenant": tenant}
            | {"max_new_tokens": 1}
        )
        engine.submit(request, lambda event, tenant=tenant: order.append(tenant))
    assert engine.drain(60)
    assert order[:2] == ["one", "one"] and len(order) == 200


@pytest.mark.parametrize(
    "values", [{"step_s": 0}, {"shared_step_s": -1}, {"draft_tokens": -1}, {"step_tokens": 16}]
)
def test_settings_out_of_bounds_are_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        EngineConfig(**values)
