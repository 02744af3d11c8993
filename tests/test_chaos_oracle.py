"""The oracle of the chaos run sees what is wrong: each violation is planted, and a hook without one passes."""

from __future__ import annotations

import dataclasses
import itertools
import random
from typing import Any

import pytest

from gateway.config import ConfigError, loads
from tests.chaos.configs import BROKEN, AppRules, History, Place, Rules, first_rules, half_of, other_rules, text_of
from tests.chaos.facts import ALLOW, DELIVERED, Attempt, Held, Windows
from tests.chaos.faults import FAULTS
from tests.chaos.modes import MODES, outcomes
from tests.chaos.oracle import Oracle
from tests.chaos.schedule import steps
from tests.chaos.scripts import SCRIPTS

OWN, ANSWER = "sha of the hook", "sha of the answer"
AT = 100.0


@dataclasses.dataclass
class Case:
    """A run of one hook, which is as it should be unless a test makes it otherwise."""

    history: History
    windows: Windows
    held: list[Held]
    oracle: Oracle
    begun: int = 1

    def asked(self, **changes: Any) -> None:
        line = {"id": "victim-1", "at": AT, "backend": "sick", "mode": "ok", "body": OWN, "answer": ANSWER,
                "revision": "r0"}  # fmt: skip
        self.oracle.tell_asked([line | changes])

    def called(self, *attempts: Attempt, **changes: Any) -> None:
        line = {
            "id": "victim-1",
            "app": "victim",
            "method": "OnCallEvent",
            "body": OWN,
            "attempts": [dataclasses.astuple(one) for one in attempts or (answered(),)],
            "status": 200,
            "answer": ANSWER,
            "empty": False,
            "names": "victim-1",
        }
        self.oracle.tell_called([line | changes])

    def found(self) -> dict[str, int]:
        self.oracle.close({"victim": self.begun})
        return dict(self.oracle.violations.counts)


def answered(seconds: float = 0.01, port: int = 5, begun: float = AT) -> Attempt:
    return Attempt(port, begun, begun + seconds, "answered")


def closed(port: int = 5, begun: float = AT) -> Attempt:
    return Attempt(port, begun, begun + 0.01, "closed")


REJECTED: dict[str, Any] = {"status": 403, "answer": "", "empty": True, "names": None}
FAILED = REJECTED | {"proxy_status": "gateway; error=http_protocol_error; received-status=500"}


@pytest.fixture
def case() -> Case:
    history, windows, held = History(), Windows(), list[Held]()
    history.may_come(first_rules(), 0.0)
    return Case(history, windows, held, Oracle(history, windows, held))


def with_victim(case: Case, **changes: Any) -> None:
    """Only this configuration is in force."""
    rules = Rules("r1", {"victim": AppRules(**changes), "untouched": AppRules()})
    case.history.may_come(rules, 50.0)
    case.history.is_in_force(rules, 60.0)


# --- what is right ---


def test_a_hook_that_its_backend_allows_is_right(case: Case) -> None:
    case.asked()
    case.called()
    assert case.found() == {}


def test_a_403_of_the_backend_is_right(case: Case) -> None:
    case.asked(mode="denied")
    case.called(**REJECTED)
    assert case.found() == {}


def test_a_fallback_by_the_cause_that_the_backend_gave_is_right(case: Case) -> None:
    case.asked(mode="error")
    case.called(**FAILED)
    assert case.found() == {}


def test_a_hook_in_the_hands_of_a_killed_worker_is_counted_apart_and_its_repeat_may_ask_again(case: Case) -> None:
    case.held.append(Held("killed", 1, frozenset({5}), AT, AT))
    case.asked()
    case.asked(answer="another")
    case.called(closed(), answered(port=6))
    assert case.found() == {}
    assert case.oracle.killed_in_flight == case.oracle.repeats == 1


def test_a_stopped_workers_hook_may_wait_for_it(case: Case) -> None:
    case.held.append(Held("stopped", 1, frozenset({5}), AT, AT + 2.5))
    case.asked()
    case.called(answered(2.6))
    assert case.found() == {}
    assert case.oracle.stopped_in_flight == 1


# --- what is wrong ---


def test_a_doubled_answer_is_seen(case: Case) -> None:
    case.asked()
    case.called()
    case.called()
    assert case.found() == {"doubled": 1}


def test_bytes_that_nobody_asked_for_are_seen(case: Case) -> None:
    case.oracle.tell_called([{"event": "surplus", "port": 5, "at": AT, "bytes": "b'HTTP/1.1 200 OK'"}])
    case.begun = 0
    assert case.found() == {"doubled": 1}


def test_a_foreign_answer_is_seen(case: Case) -> None:
    case.asked()
    case.called(names="victim-2")
    assert case.found() == {"foreign": 1}


def test_a_late_answer_is_seen(case: Case) -> None:
    case.asked()
    case.called(answered(2.2))
    assert case.found() == {"late": 1}


def test_a_slightly_late_answer_is_counted_for_the_strict_figure(case: Case) -> None:
    case.asked()
    case.called(answered(1.2))
    assert case.found() == {}
    assert case.oracle.late_strict == 1


def test_what_held_the_caller_itself_up_is_no_lateness_of_the_gateways(case: Case) -> None:
    case.asked()
    case.called(answered(2.2), lag=1.15)
    assert case.found() == {}
    assert case.oracle.late_strict == 0


def test_a_missing_answer_is_seen(case: Case) -> None:
    case.begun = 2
    case.asked()
    case.called()
    assert case.found() == {"missing": 1}


@pytest.mark.parametrize("how", ["silent", "refused", "broken"])
def test_a_hook_without_an_answer_is_seen(case: Case, how: str) -> None:
    case.called(Attempt(5, AT, AT + 0.1, how), status=0)
    assert case.found() == {"unanswered": 1}


def test_a_bare_close_is_seen_though_the_repeat_was_answered(case: Case) -> None:
    case.asked()
    case.called(closed(), answered(port=6))
    assert case.found() == {"bare_close": 1}


def test_a_repeat_that_nobody_answers_is_seen(case: Case) -> None:
    case.held.append(Held("killed", 1, frozenset({5}), AT, AT))
    case.called(closed(), Attempt(6, AT, AT + 15, "silent"), status=0)
    assert case.found() == {"repeat_unanswered": 1}


def test_a_worker_that_is_stopped_for_ever_excuses_nobody_for_ever(case: Case) -> None:
    case.held.append(Held("stopped", 1, frozenset({5}), AT, AT + 10))
    case.asked()
    case.called(answered(9.0))
    assert case.found() == {"late": 1}


def test_a_connection_that_hangs_while_no_worker_lives_is_seen(case: Case) -> None:
    case.windows.spans["nobody"] = [[AT, AT + 3]]
    case.called(Attempt(0, AT, AT + 0.1, "refused"), status=0)
    assert case.found() == {}
    case.called(Attempt(0, AT, AT + 2.9, "refused"), status=0, id="victim-2")
    assert case.found() == {"unanswered": 1}


@pytest.mark.parametrize(
    ("mode", "answer"),
    [
        ("ok", REJECTED),
        ("ok", FAILED),
        ("denied", {}),
        ("error", REJECTED),
        ("error", {"answer": OWN}),
        ("html", {}),
        ("reset", FAILED),
        ("hang", {"answer": OWN, "proxy_status": "gateway; error=http_response_timeout"}),
        ("ok", REJECTED | {"proxy_status": "gateway; error=http_response_timeout"}),
        ("ok", REJECTED | {"proxy_status": "gateway; error=connection_limit_reached"}),
        ("ok", REJECTED | {"proxy_status": "gateway; error=destination_unavailable"}),
        ("ok", REJECTED | {"problem": True, "empty": False}),
        ("ok", {"status": 500}),
        ("error", FAILED | {"empty": False}),
    ],
)
def test_an_inexplicable_verdict_is_seen(case: Case, mode: str, answer: dict[str, Any]) -> None:
    case.asked(mode=mode)
    case.called(**answer)
    assert case.found() == {"inexplicable": 1}


def test_an_answer_that_is_not_the_backends_byte_for_byte_is_seen(case: Case) -> None:
    case.asked()
    case.called(answer="almost")
    assert case.found() == {"inexplicable": 1}


def test_a_verdict_by_a_configuration_that_is_in_force_no_more_is_seen(case: Case) -> None:
    with_victim(case, allowed=frozenset({"error_status"}))
    case.asked(mode="error", revision="r1")
    case.called(**FAILED)
    assert case.found() == {"inexplicable": 1}


def test_either_of_two_configurations_explains_an_answer_while_one_replaces_the_other(case: Case) -> None:
    case.history.may_come(Rules("r1", {"victim": AppRules(allowed=frozenset({"error_status"}))}), AT - 1)
    case.asked(mode="error")
    case.called(**FAILED)
    case.begun = 2
    case.asked(mode="error", revision="r1", id="victim-2")
    allowed = FAILED | {"status": 200, "answer": OWN, "empty": False, "names": "victim-2"}
    case.called(**allowed, id="victim-2")
    assert case.found() == {}


def test_a_backend_asked_by_a_configuration_that_never_was_is_seen(case: Case) -> None:
    case.asked(revision="half a file")
    case.called()
    assert case.found() == {"wrong_configuration": 1}


def test_an_app_that_the_configuration_lacks_is_unknown_and_one_that_it_has_is_not(case: Case) -> None:
    rules = Rules("r1", {})
    case.history.may_come(rules, 50.0)
    case.history.is_in_force(rules, 60.0)
    case.called(status=403, problem=True, answer="a problem", names=None)
    assert case.found() == {}


def test_a_second_request_to_the_backend_is_seen(case: Case) -> None:
    case.asked()
    case.asked()
    case.called()
    assert case.found() == {"asked_twice": 1}


def test_a_retry_rule_explains_a_second_request(case: Case) -> None:
    with_victim(case, retries_resets=True)
    case.asked(revision="r1", mode="reset")
    case.asked(revision="r1")
    case.called()
    assert case.found() == {}


def test_a_body_that_was_changed_on_the_way_is_seen(case: Case) -> None:
    case.asked(body="another")
    case.called()
    assert case.found() == {"altered": 1}


def test_a_backend_that_is_asked_of_a_strangers_hook_is_seen(case: Case) -> None:
    case.asked()
    case.called()
    case.asked(id="stranger-1")
    assert case.found() == {"unasked": 1}


def test_each_violation_is_counted_and_a_few_are_shown(case: Case) -> None:
    case.begun = 30
    assert case.found() == {"missing": 30}
    assert len(case.oracle.violations.examples["missing"]) == 5


# --- schedules, modes, configurations ---


def test_a_seed_repeats_its_schedule_and_another_has_another() -> None:
    first, again, other = (list(itertools.islice(steps(seed), 30)) for seed in (1, 1, 2))
    assert first == again != other


def test_every_fault_has_its_turn_and_none_that_is_left_out() -> None:
    planned = {(one.of, one.name) for step in itertools.islice(steps(3), 60) for one in step}
    assert planned == {(of, name) for of, names in FAULTS.items() for name in names}
    left = {
        (one.of, one.name) for step in itertools.islice(steps(3, frozenset({"disks", "workers/kill"})), 60)
        for one in step
    }  # fmt: skip
    assert planned - left == {(of, name) for of, name in planned if of == "disks" or (of, name) == ("workers", "kill")}


def test_every_mode_has_its_script() -> None:
    assert SCRIPTS.keys() == MODES.keys()


def test_an_event_is_delivered_by_any_2xx_and_a_question_is_not() -> None:
    assert outcomes("html", True) == {DELIVERED}
    assert outcomes("php_dies", True) == outcomes("php_dies", False)
    assert DELIVERED not in outcomes("html", False)
    assert all(ALLOW not in mode.outcomes for mode in MODES.values() if mode.delivers)


@pytest.fixture
def place() -> Place:
    return Place("127.0.0.1:8080", "127.0.0.1:9180", {"healthy": 1, "sick": 2, "standby": 3}, None, None)


def test_every_good_configuration_is_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAOS_SECRET", "x")
    for number in range(20):
        rules = other_rules(number, random.Random(number))
        assert set(loads(text_of(rules, place)).config.apps) >= rules.apps.keys()


@pytest.mark.parametrize("kind", BROKEN)
def test_every_broken_configuration_is_refused(kind: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAOS_SECRET", "x")
    with pytest.raises(ConfigError):
        loads(BROKEN[kind](text_of(first_rules(), place)))


def test_half_a_configuration_is_valid_and_lacks_the_apps_that_are_judged(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAOS_SECRET", "x")
    apps = loads(half_of(text_of(first_rules(), place))).config.apps
    assert apps
    assert not apps.keys() & {"victim", "untouched"}
