from __future__ import annotations

import pytest

from symmetra_mcp.errors import ProviderAuthError, ProviderError, ProviderUnavailableError, QuotaExceededError
from symmetra_mcp.providers.breaker import (
    CONSECUTIVE_FAILURES,
    FIRST_PAUSE_S,
    LASTING_PAUSE_S,
    LONGEST_PAUSE_S,
    CircuitBreaker,
)

DOWN = ProviderUnavailableError("down", provider="openai")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(clock)


def opened(breaker: CircuitBreaker, error: ProviderError = DOWN) -> CircuitBreaker:
    for _ in range(CONSECUTIVE_FAILURES):
        breaker.failed(error)
    assert breaker.state == "open"
    return breaker


def test_a_lone_failure_leaves_it_closed(breaker: CircuitBreaker) -> None:
    for _ in range(50):
        breaker.failed(DOWN)
        breaker.succeeded()
        breaker.succeeded()
    assert (breaker.state, breaker.cause) == ("closed", None)


def test_failures_in_a_row_open_it(breaker: CircuitBreaker) -> None:
    opened(breaker)
    assert not breaker.allows()
    assert (breaker.cause, breaker.pause_left_s) == (DOWN, FIRST_PAUSE_S)


def test_failing_every_other_time_opens_it(breaker: CircuitBreaker) -> None:
    for _ in range(10):
        breaker.failed(DOWN)
        breaker.succeeded() if breaker.state == "closed" else None
    assert breaker.state == "open"


def test_after_the_pause_one_call_tries_and_its_success_closes_it(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += FIRST_PAUSE_S
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    breaker.succeeded()
    assert [breaker.allows() for _ in range(3)] == [True, True, True]
    breaker.failed(DOWN)
    assert breaker.state == "closed"


def test_each_failed_try_doubles_the_pause_up_to_the_longest(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    pauses = []
    for _ in range(8):
        clock.now += breaker.pause_left_s
        assert breaker.allows()
        breaker.failed(DOWN)
        pauses.append(breaker.pause_left_s)
    assert pauses[:3] == [2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S, 8 * FIRST_PAUSE_S]
    assert pauses[-1] == LONGEST_PAUSE_S


def test_answers_of_calls_sent_before_do_not_lengthen_the_pause(breaker: CircuitBreaker) -> None:
    opened(breaker)
    for _ in range(5):
        breaker.failed(DOWN)
    assert breaker.pause_left_s == FIRST_PAUSE_S


@pytest.mark.parametrize("error", [ProviderAuthError("key", provider="p"), QuotaExceededError("quota", provider="p")])
def test_what_only_a_person_can_mend_opens_it_for_long(breaker: CircuitBreaker, error: ProviderError) -> None:
    breaker.failed(error)
    assert (breaker.state, breaker.pause_left_s) == ("open", LASTING_PAUSE_S)


def test_it_can_be_told_to_try_again_now(breaker: CircuitBreaker) -> None:
    breaker.failed(ProviderAuthError("key", provider="p"))
    breaker.half_open()
    assert breaker.allows()


def test_a_try_that_is_cancelled_lets_the_next_call_try(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += FIRST_PAUSE_S
    assert breaker.allows()
    assert not breaker.allows()
    breaker.released()
    assert breaker.allows()


def test_a_try_without_a_verdict_holds_others_up_for_a_while_only(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    clock.now += FIRST_PAUSE_S
    assert breaker.allows()
    clock.now += LONGEST_PAUSE_S
    assert breaker.allows()


def test_it_knows_how_long_the_outage_has_lasted(breaker: CircuitBreaker, clock: Clock) -> None:
    assert breaker.down_s == 0
    opened(breaker)
    for _ in range(4):
        clock.now += breaker.pause_left_s
        assert breaker.allows()
        breaker.failed(DOWN)
    assert breaker.down_s == FIRST_PAUSE_S * (1 + 2 + 4 + 8)
    breaker.succeeded()
    assert breaker.down_s == 0
