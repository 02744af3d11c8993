"""The oracle of kept events sees what is wrong: each violation is planted, and a run without one passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.gateways import LISTEN, running_gateway, wait_until
from tests.support.spool_backend import EventBackend, Script
from tests.support.spool_load import EventLoad
from tests.support.spool_oracle import Crash, Findings, Received, Sent, judge


def sent(number: int, **changes: Any) -> Sent:
    """An event of one call, answered a tenth of a second after it was sent; they follow one another by one second."""
    event = Sent(f"call/{number}", "call", f"digest {number}", float(number), number + 0.1, 200)
    return event._replace(**changes)


def received(number: int, after: float = 0.05, **changes: Any) -> Received:
    """Its delivery."""
    delivery = Received(
        id=f"call/{number}",
        digest=f"digest {number}",
        asked=number + after,
        redelivery=None if after < 0.1 else "1",
        idempotency_key=f"key {number}",
        answered=number + after + 0.01,
        status=200,
        read=True,
    )
    return delivery._replace(**changes)


def violations(events: list[Sent], deliveries: list[Received], **options: Any) -> dict[str, list[str]]:
    return judge(events, deliveries, **options).violations


EVENTS = [sent(0), sent(1), sent(2)]
LATE = [received(0, 10.0), received(1, 10.0), received(2, 10.0)]


def test_events_that_are_delivered_once_and_in_order_pass() -> None:
    assert violations(EVENTS, [received(0), received(1), received(2)]) == {}
    assert violations(EVENTS, LATE) == {}


def test_it_counts() -> None:
    found = judge([*EVENTS, sent(3, status=403)], [received(0), *LATE[1:]])
    assert found == Findings(sent=4, promised=3, delivered=3, redelivered=2)
    assert "4 sent, 3 answered 200, 3 delivered (2 later), 0 lost, 0 doubled" in str(found)


@pytest.mark.parametrize(
    "delivery",
    [
        pytest.param(None, id="never came"),
        pytest.param(received(1, status=500), id="failed"),
        pytest.param(received(1, answered=None, status=0, read=False), id="taken and not answered"),
        pytest.param(received(1, read=False), id="answered to nobody"),
    ],
)
def test_a_lost_event_is_seen(delivery: Received | None) -> None:
    deliveries = [received(0), received(2), *([delivery] if delivery else [])]
    assert violations(EVENTS, deliveries) == {"lost": ["call/1"]}
    assert violations(EVENTS, deliveries, accounted=["call/1"]) == {}, "a dead letter is not lost"


@pytest.mark.parametrize("status", [0, 403])
def test_an_event_that_was_not_answered_200_may_go(status: int) -> None:
    assert violations([sent(0, status=status)], []) == {}


def test_an_event_that_the_backend_rejects_is_delivered() -> None:
    assert violations(EVENTS[:1], [received(0, status=403)]) == {}


def test_a_doubled_event_is_seen() -> None:
    twice = [received(0), received(0, 0.3), received(1), received(2)]
    assert violations(EVENTS, twice) == {"doubled": ["call/0"]}
    unread = [received(0, read=False), *twice[1:]]
    assert violations(EVENTS, unread) == {}, "the gateway did not know of the first"


def test_a_doubled_event_is_excused_by_a_crash_just_after_the_first() -> None:
    twice = [received(0), received(0, 5.0)]
    found = judge(EVENTS[:1], twice, crashes=[Crash(0.5, 0.5)])
    assert (found.violations, found.doubled_by_crash) == ({}, ["call/0"])
    long = Crash(4.9, 5.5)  # killed before 5.0, or after
    assert violations(EVENTS[:1], [received(0, 4.8), received(0, 5.0)], crashes=[long]) == {}, (
        "killed before 5.0, or after"
    )
    for moment in (0.01, 4.0, 6.0):
        crash = Crash(moment, moment)
        assert violations(EVENTS[:1], twice, crashes=[crash]) == {"doubled": ["call/0"]}, crash


def test_an_event_before_its_predecessor_is_seen() -> None:
    assert violations(EVENTS, [received(0, 10.0), received(1), received(2, 10.0)]) == {"out_of_order": ["call/1"]}
    attempt = received(1, status=500)
    assert violations(EVENTS, [*LATE, attempt]) == {"out_of_order": ["call/1"]}, "an attempt may have been acted on"


def test_order_holds_from_the_answer_on_and_within_a_key() -> None:
    together = [sent(0, ended=1.5), sent(1)]
    assert violations(together, [received(0, 10.0), received(1)]) == {}, "nobody had been answered"
    other = [sent(0), sent(1, key="other")]
    assert violations(other, [received(0, 10.0), received(1)]) == {}
    assert violations(EVENTS[:2], [received(0, 10.0), received(1)], gap=1.0) == {}
    assert violations([sent(0, status=403), sent(1)], [received(0, 10.0), received(1)]) == {}


def test_a_damaged_event_is_seen() -> None:
    assert violations(EVENTS[:1], [received(0, digest="other")]) == {"damaged": ["call/0"]}


def test_an_invented_event_is_seen() -> None:
    assert violations(EVENTS[:1], [received(0), received(7)]) == {"invented": ["call/7"]}


def test_an_attempt_with_another_idempotency_key_or_none_is_seen() -> None:
    first = received(0, status=500)
    for key in ("key 9", None):
        assert violations(EVENTS[:1], [first, received(0, 3.0, idempotency_key=key)]) == {"rekeyed": ["call/0"]}


@given(st.data(), st.integers(2, 30))
def test_any_swap_of_two_late_deliveries_is_seen(data: st.DataObject, count: int) -> None:
    first = data.draw(st.integers(0, count - 2))
    second = data.draw(st.integers(first + 1, count - 1))
    events = [sent(number) for number in range(count)]
    deliveries = [received(number, 100.0) for number in range(count)]
    assert violations(events, deliveries) == {}
    one, other = deliveries[first], deliveries[second]
    deliveries[first] = one._replace(asked=other.asked, answered=other.answered)
    deliveries[second] = other._replace(asked=one.asked, answered=one.answered)
    assert violations(events, deliveries).keys() == {"out_of_order"}


# --- the backend and the media server, with a gateway that keeps nothing ---

CONFIG = LISTEN + (
    "defaults: {timeout: 1s}\nupstreams: {u: {url: 'URL', retry: {attempts: 1}}}\n"
    "apps: {defaultApp: {upstream: u}}\nlog: {access: off}\n"
)


def test_the_backend_follows_its_script(tmp_path: Path) -> None:
    with (
        EventBackend(tmp_path) as backend,
        running_gateway(CONFIG.replace("URL", backend.url), tmp_path) as gateway,
    ):

        def send(name: str) -> list[int]:
            with EventLoad([gateway.hooks], calls=1, events=3, connections=1, name=name) as load:
                load.wait()
            return [one.status for one in load.sent]

        assert send("fine") == [200] * 3
        backend.follow(Script(status=500))
        assert send("failing") == [403] * 3
        backend.follow(Script(poison={"poison-0/1": 500}))
        assert send("poison") == [200, 403, 200]
        backend.follow(Script(lose=1))
        assert send("lost") == [403, 200, 200]
        backend.follow(Script(up=False))
        assert send("down") == [403] * 3
        backend.follow(Script(die_after=1))
        assert send("dying") == [200, 403, 403]
        backend.wait()
        backend.start()
        assert send("back") == [200] * 3
        backend.follow(Script(delay=1.5))
        assert send("slow") == [403] * 3
        assert wait_until(lambda: sum(not one.read for one in backend.received() if one.answered) == 3)
    outcomes = [(one.id, one.status, one.read) for one in backend.received()]
    assert [outcome for outcome in outcomes if not outcome[2]] == [
        ("lost-0/0", 0, False),
        ("dying-0/1", 0, False),
        *((f"slow-0/{number}", 200, False) for number in range(3)),
    ]
    assert not any(event.startswith("down") for event, _, _ in outcomes)
    assert len({one.id for one in backend.received()}) == 5 * 3 + 2 + 3


def test_a_load_survives_the_end_of_its_gateway(tmp_path: Path) -> None:
    config = CONFIG.replace("127.0.0.1:0', admin", "ADDRESS', admin")
    with EventBackend(tmp_path) as backend:
        backend.follow(Script(delay=0.05))
        with running_gateway(CONFIG.replace("URL", backend.url), tmp_path) as gateway:
            address = gateway.hooks
            load = EventLoad([address], calls=4, events=10, connections=4)
            load.__enter__()
            load.wait_for(12)
            gateway.process.kill()
        config = config.replace("ADDRESS", address).replace("URL", backend.url)
        (tmp_path / "second").mkdir()
        with running_gateway(config, tmp_path / "second"):
            load.wait()
        load.stop()
    statuses = load.statuses()
    assert statuses[200] + statuses[0] == 40
    assert 1 <= statuses[0] <= 8, (
        "those that were on their way, and what was sent to a socket that nobody reads any more"
    )
    found = judge(load.sent, backend.received())
    assert found.violations.keys() <= {"rekeyed"}, found
