"""Which STT is tried when: a table of what happened and what follows."""

from __future__ import annotations

import pytest

from rtcstt.stt.failover import FALLBACK, FIRST, Failover, Patience, Verdict


def failover(*, has_fallback: bool = True) -> Failover:
    patience = Patience(fallback_after_s=3.0, backoff_first_s=0.25, backoff_cap_s=5.0)
    return Failover(patience, has_fallback=has_fallback)


@pytest.mark.parametrize(
    ("attempts", "shortest", "longest"),
    [
        (1, 0.0, 0.05),
        (2, 0.125, 0.25),
        (3, 0.25, 0.5),
        (6, 2.0, 4.0),
        (7, 2.5, 5.0),
        (40, 2.5, 5.0),
        (5000, 2.5, 5.0),
    ],
)
def test_pauses_grow_to_a_cap(attempts: int, shortest: float, longest: float) -> None:
    core = failover()
    for _ in range(attempts):
        core.failed(0.0)
    assert (core.pause(0.0), core.pause(1.0)) == (shortest, pytest.approx(longest))


def test_the_fallback_takes_over_when_patience_is_over_and_gives_back() -> None:
    core = failover()
    core.failed(10.0)
    assert not core.choose(12.9) and core.engine == FIRST
    assert core.choose(13.0) and core.engine == FALLBACK and core.failovers == 1
    assert core.may_return and core.in_outage
    core.proven()
    assert not core.in_outage and core.attempts == 0
    core.returned(20.0)
    assert core.engine == FIRST and core.in_outage and core.attempts == 1


def test_if_the_fallback_fails_too_they_take_turns() -> None:
    core = failover()
    engines = []
    for second in range(0, 30, 5):
        core.failed(float(second))
        core.choose(float(second))
        engines.append(core.engine)
    assert engines == [FIRST, FALLBACK, FIRST, FALLBACK, FIRST, FALLBACK]


def test_without_a_fallback_the_first_is_tried_for_ever_and_a_refusal_is_the_end() -> None:
    core = failover(has_fallback=False)
    core.failed(0.0)
    assert not core.choose(1000.0) and core.engine == FIRST and not core.may_return
    assert core.refused(1001.0) is Verdict.GIVE_UP


def test_a_first_that_refused_is_not_asked_again() -> None:
    core = failover()
    assert core.refused(0.0) is Verdict.RETRY
    assert core.choose(0.0) and core.engine == FALLBACK and not core.may_return
    core.failed(1.0)
    core.choose(1.0)
    assert core.engine == FALLBACK, "there is no turn for the first"
    assert core.refused(2.0) is Verdict.GIVE_UP


def test_a_first_that_refuses_while_it_is_tried_again_stays_out() -> None:
    core = failover()
    core.failed(0.0)
    core.choose(5.0)
    core.first_refused()
    assert not core.may_return
