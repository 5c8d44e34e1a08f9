from __future__ import annotations

import anyio
import pytest

from symmetra_mcp.providers.pace import ARRIVAL_S, FIRST_WINDOW, WIDEST_WINDOW, Bucket, Pace, RateState

pytestmark = pytest.mark.anyio


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    async def sleep(seconds: float) -> None:
        clock.now += seconds
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr("symmetra_mcp.providers.pace.anyio.sleep", sleep)
    return clock


def test_a_bucket_gives_a_minutes_worth_at_once_and_then_its_rate(clock: Clock) -> None:
    bucket = Bucket(60, clock)
    bucket.take(60)
    assert bucket.wait_s(1) == pytest.approx(1)
    assert bucket.wait_s(30) == pytest.approx(30)
    clock.now += 10
    assert bucket.wait_s(10) == 0
    assert bucket.wait_s(30) == pytest.approx(20)


def test_a_bucket_never_holds_more_than_its_capacity(clock: Clock) -> None:
    bucket = Bucket(60, clock)
    clock.now += 1000
    assert bucket.level == 60


def test_more_than_the_capacity_waits_for_a_full_bucket_rather_than_for_ever(clock: Clock) -> None:
    bucket = Bucket(60, clock)
    bucket.take(30)
    assert bucket.wait_s(1000) == pytest.approx(30)


def test_a_bucket_follows_what_the_vendor_says_is_left(clock: Clock) -> None:
    bucket = Bucket(60, clock)
    bucket.correct(RateState(limit=600, remaining=50, full_in_s=5), not_counted_yet=20)
    assert (bucket.per_minute, bucket.level, bucket.capacity) == (600, 30, 100)


async def test_without_limits_requests_wait_for_places_only(clock: Clock) -> None:
    pace = Pace(clock=clock)
    for _ in range(1000):
        async with pace.admitted(1000, 10):
            pass
    assert clock.now == 0


@pytest.mark.parametrize(
    ("limits", "expected_s"),
    [
        pytest.param({"requests_per_minute": 60}, 40, id="requests"),
        pytest.param({"tokens_per_minute": 6000}, 40, id="tokens"),
        pytest.param({"inputs_per_minute": 600}, 40, id="inputs"),
    ],
)
async def test_a_limit_is_used_up_and_not_passed(clock: Clock, limits: dict[str, float], expected_s: float) -> None:
    pace = Pace(clock=clock, **limits)
    for _ in range(100):  # of 100 tokens and 10 texts each: 60 at once, the rest at one a second
        async with pace.admitted(100, 10):
            pass
    assert clock.now == pytest.approx(expected_s, abs=0.5)


async def test_no_more_requests_are_in_flight_than_the_window_is_wide(clock: Clock) -> None:
    pace = Pace(clock=clock)
    most = 0

    async def one() -> None:
        nonlocal most
        async with pace.admitted(1, 1):
            most = max(most, pace.in_flight)
            for _ in range(3):
                await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(one)
    assert most == int(FIRST_WINDOW)
    assert pace.in_flight == 0


def test_answers_widen_the_window_up_to_the_widest(clock: Clock) -> None:
    pace = Pace(clock=clock)
    for _ in range(100):
        pace.answered(None, None)
    assert pace.window == WIDEST_WINDOW


def test_a_refusal_that_nothing_explains_halves_the_window_and_many_together_count_once(clock: Clock) -> None:
    pace = Pace(clock=clock)
    for _ in range(100):
        pace.answered(None, None)
    for _ in range(5):
        pace.refused(None)
    assert pace.window == WIDEST_WINDOW / 2
    clock.now += 2
    pace.refused(None)
    assert pace.window == WIDEST_WINDOW / 4


def test_a_refusal_that_the_buckets_explain_leaves_the_window(clock: Clock) -> None:
    pace = Pace(tokens_per_minute=1000, clock=clock)
    pace.note_sent(2000, 1)
    pace.refused(None)
    assert pace.window == FIRST_WINDOW


async def test_the_vendors_own_pause_is_kept(clock: Clock) -> None:
    pace = Pace(clock=clock)
    pace.refused(7.0)
    async with pace.admitted(1, 1):
        assert clock.now == pytest.approx(7.0)


def test_one_failure_says_nothing_and_many_narrow_the_window(clock: Clock) -> None:
    pace = Pace(clock=clock)
    for _ in range(100):
        pace.answered(None, None)
    pace.failed()
    assert pace.window == WIDEST_WINDOW
    for _ in range(4):
        pace.failed()
    assert pace.window == WIDEST_WINDOW / 2


async def test_limits_are_learnt_from_answers(clock: Clock) -> None:
    pace = Pace(clock=clock)
    async with pace.admitted(100, 1):
        clock.now += 1
    pace.answered(RateState(60, 0, 60), RateState(6000, 6000, 0))
    async with pace.admitted(100, 1):
        assert clock.now == pytest.approx(2.0)
    assert pace.largest_request == 6000 // 8


def test_what_was_sent_just_now_is_taken_off_what_an_older_answer_says_is_left(clock: Clock) -> None:
    pace = Pace(clock=clock)
    pace.note_sent(400, 1)
    pace.answered(None, RateState(6000, 500, 1))
    assert pace._wait_s(100, 1) == 0
    assert pace._wait_s(101, 1) > 0
    clock.now += 2 * ARRIVAL_S
    pace.answered(None, RateState(6000, 500, 1))
    assert pace._wait_s(500, 1) == 0


def test_a_limit_that_the_user_set_is_not_raised_by_the_vendors(clock: Clock) -> None:
    pace = Pace(tokens_per_minute=600, clock=clock)
    pace.note_sent(600, 1)
    pace.answered(None, RateState(1_000_000, 1_000_000, 0))
    assert pace._wait_s(100, 1) == pytest.approx(10)


def test_a_first_refusal_without_figures_says_that_the_vendors_bucket_is_smaller(clock: Clock) -> None:
    pace = Pace(inputs_per_minute=2000, clock=clock)
    for _ in range(4):
        pace.note_sent(10, 96)
    pace.refused(None)
    assert pace._wait_s(10, 96) == pytest.approx(96 * 60 / 2000)  # at the rate that was set
    clock.now += 3600
    assert pace._inputs is not None
    assert pace._inputs.level == pytest.approx(4 * 96)


def test_a_vendor_that_refuses_what_flowed_in_since_its_last_refusal_is_asked_more_slowly(clock: Clock) -> None:
    pace = Pace(inputs_per_minute=2000, clock=clock)
    for _ in range(4):
        pace.note_sent(10, 96)
    pace.refused(None)
    clock.now += 6
    pace.note_sent(10, 96)
    pace.refused(None)
    assert pace._wait_s(10, 96) == pytest.approx(96 * 60 / 1600)
    for _ in range(30):
        pace.answered(None, None)
    assert pace._wait_s(10, 96) == pytest.approx(96 * 60 / 2000)


def test_a_refusal_with_a_figure_is_followed_to_the_second(clock: Clock) -> None:
    pace = Pace(tokens_per_minute=60_000, clock=clock)
    pace.note_sent(10_000, 1)
    pace.refused(3.0, 10_000, 1)
    assert pace._wait_s(10_000, 1) == pytest.approx(3.0)


async def test_a_waiting_request_is_measured_when_it_goes_out(clock: Clock) -> None:
    pace = Pace(tokens_per_minute=6000, clock=clock)
    pace.note_sent(6000, 1)
    async with pace.admitted(lambda: 100 if clock.now == 0 else 300, 1):
        assert clock.now == pytest.approx(3.0)
