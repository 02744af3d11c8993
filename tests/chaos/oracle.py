"""Judges every hook: answered exactly once, in time, as the hook's own, and by a configuration that was in force.

The oracle knows what the callers saw (``Called``), what the backends saw (``Asked``), the configurations (``History``)
and, of the faults, only what excuses something: workers that were killed or stopped with the connections that they had,
and the windows in which a backend was sick or descriptors were short.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.chaos.configs import AppRules, History, Rules
from tests.chaos.facts import (
    ALLOW,
    BAD_ANSWER,
    DELIVERED,
    DENY,
    ERROR_STATUS,
    OVERLOAD,
    TIMEOUT,
    UNREACHABLE,
    Asked,
    Attempt,
    Called,
    Held,
    Windows,
)
from tests.chaos.modes import MODES, outcomes

STRICT: Final = 0.1
"""Seconds over the budget that a hook may take."""
CEILING: Final = 1.0
"""The same where the machine may be busy with something else."""
SILENCE: Final = 3.5
"""Seconds after which a worker that is stopped must have been killed: 2 s of silence, and what noticing takes."""
SLACK: Final = 0.05
"""Seconds after a worker's death in which a caller may not yet have seen that its connection has ended."""
EXAMPLES: Final = 5
BREAKER_MEMORY: Final = 40.0
"""Seconds after a backend was sick in which its breaker may still be open."""
_TOKENS: Final[dict[str, tuple[str, ...]]] = {
    "http_response_timeout": (TIMEOUT,),
    "connection_timeout": (TIMEOUT, UNREACHABLE),
    "dns_timeout": (UNREACHABLE,),
    "dns_error": (UNREACHABLE,),
    "destination_unavailable": (UNREACHABLE,),
    "destination_ip_unroutable": (UNREACHABLE,),
    "connection_refused": (UNREACHABLE,),
    "connection_terminated": (UNREACHABLE,),
    "connection_limit_reached": (OVERLOAD,),
    "tls_protocol_error": (UNREACHABLE,),
    "tls_certificate_error": (UNREACHABLE,),
    "http_response_incomplete": (BAD_ANSWER,),
    "http_response_header_section_size": (BAD_ANSWER,),
    "http_response_body_size": (BAD_ANSWER,),
    "http_response_content_coding": (BAD_ANSWER,),
    "http_upgrade_failed": (BAD_ANSWER, ERROR_STATUS),
    "http_protocol_error": (BAD_ANSWER, ERROR_STATUS),
}
"""What a token of RFC 9209 can stand for."""


@dataclass
class Violations:
    """What was found, by kind: all are counted, a few of each are kept."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, what: str) -> None:
        """One more."""
        self.counts[kind] += 1
        if len(self.examples[kind]) < EXAMPLES:
            self.examples[kind].append(what)

    @property
    def total(self) -> int:
        return sum(self.counts.values())


class Oracle:
    """Gets everything as it becomes known; ``judge`` says what is wrong."""

    def __init__(self, history: History, windows: Windows, held: list[Held]) -> None:
        self._history = history
        self._windows = windows
        self._held = held
        self._asked: dict[str, list[Asked]] = defaultdict(list)
        self._called: dict[str, Called] = {}
        self._waiting: list[Called] = []
        self.violations = Violations()
        self.hooks = 0
        self.killed_in_flight = 0
        self.stopped_in_flight = 0
        self.killed_twice = 0
        self.refused_by_nobody = 0
        """Hooks that were refused at once while no worker lived."""
        self.repeats = 0
        self.late_strict = 0
        """Answers later than budget plus 100 ms."""
        self.worst_late = 0.0
        self.times: dict[str, list[float]] = defaultdict(list)
        """Seconds per hook of each app, those in the hands of a killed or stopped worker left out."""
        self._out_of_step: set[str] = set()

    def tell_called(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take in what the callers wrote."""
        for line in lines:
            if line.get("event") == "surplus":
                self.violations.add("doubled", f"bytes that nobody asked for on a caller's connection: {line['bytes']}")
                continue
            called = Called.parsed(line)
            if called.id in self._called:
                self.violations.add("doubled", f"{called.id} has two answers")
                continue
            self._called[called.id] = called
            self._waiting.append(called)

    def tell_asked(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take in what the backends wrote."""
        for line in lines:
            asked = Asked(**line)
            self._asked[asked.id].append(asked)

    def judge(self) -> None:
        """Judge every hook that has ended and was not judged."""
        waiting, self._waiting = self._waiting, []
        for called in waiting:
            self.hooks += 1
            self._judge(called)

    def close(self, begun: Mapping[str, int]) -> None:
        """At the end: every hook that was begun has an end, and no backend was asked of a hook too often or unasked."""
        self.judge()
        for app, count in begun.items():
            for number in range(1, count + 1):
                if f"{app}-{number}" not in self._called:
                    self.violations.add("missing", f"{app}-{number} was begun and never ended")
        for hook, asked in self._asked.items():
            called = self._called.get(hook)
            if called is None:
                self.violations.add("unasked", f"a backend was asked of {hook!r}, which no media server sent")
            else:
                self._judge_count(called, asked)

    # --- one hook ---

    def _judge(self, called: Called) -> None:
        excuses = [self._excuse(number, called) for number in range(len(called.attempts))]
        excused = next((held for held in excuses if held is not None), None)
        self.repeats += len(called.attempts) > 1
        if excused is not None:
            self.killed_in_flight += excused.kind == "killed"
            self.stopped_in_flight += excused.kind == "stopped"
        for attempt, excuse in zip(called.attempts, excuses, strict=True):
            if attempt.how == "closed" and excuse is None and not self._nobody_lived(attempt):
                self.violations.add("bare_close", f"{self._told(called)}: closed before a byte of the answer")
        if called.status == 0:
            self._judge_silence(called, excuses[-1])
            return
        self._judge_time(called, excuses[-1])
        if excused is None:
            self.times[called.app].append(called.ended - called.begun)
        self._judge_answer(called, excused)

    def _excuse(self, number: int, called: Called) -> Held | None:
        """The worker that was killed or stopped with this attempt in its hands."""
        attempt = called.attempts[number]
        return next((held for held in self._held if held.has(attempt, SLACK)), None)

    def _judge_silence(self, called: Called, excuse: Held | None) -> None:
        """A hook that no answer came to, neither to its repeat."""
        last = called.attempts[-1]
        if self._nobody_lived(last) and last.ended - last.begun <= CEILING:
            self.refused_by_nobody += 1
        elif excuse is not None and last.how in ("closed", "broken"):
            self.killed_twice += 1  # amid its answer, or its one repeat as well
        else:
            repeated = any(self._excuse(number, called) for number in range(len(called.attempts)))
            kind = "repeat_unanswered" if repeated else "unanswered"
            self.violations.add(kind, f"{self._told(called)}: no answer ({last.how})")

    def _nobody_lived(self, attempt: Attempt) -> bool:
        """Whether every worker was dead at some moment of it: then connections are refused."""
        return self._windows.met("nobody", attempt.begun, attempt.ended)

    def _judge_time(self, called: Called, excuse: Held | None) -> None:
        attempt = called.attempts[-1]
        rules = self._rules(called, excuse)
        budget = max((app.timeout for one in rules if (app := one.apps.get(called.app))), default=1.0)
        due = attempt.begun + budget
        if excuse is not None and excuse.kind == "stopped":
            due = max(due, min(excuse.ended, excuse.begun + SILENCE) + budget)
        late = attempt.ended - due - called.lag
        self.worst_late = max(self.worst_late, late)
        self.late_strict += late > STRICT
        if late > CEILING:
            self.violations.add("late", f"{self._told(called)}: {late:.2f} s over its budget of {budget:g} s")

    def _rules(self, called: Called, excuse: Held | None) -> list[Rules]:
        begun = called.attempts[0].begun
        if excuse is not None and excuse.kind == "stopped":
            begun = min(begun, excuse.begun)  # what it had not read yet, it answers by what it knew
        return self._history.met(begun, called.ended)

    def _judge_answer(self, called: Called, excused: Held | None) -> None:
        if called.names is not None and called.names != called.id:
            self.violations.add("foreign", f"{self._told(called)}: the answer is that of {called.names!r}")
            return
        asked = self._asked.get(called.id, [])
        rules = self._rules(called, excused)
        known = {one.revision for one in rules}
        for one in asked:
            if one.body != called.body:
                self.violations.add("altered", f"{self._told(called)}: the backend got another body")
            if one.revision not in known:
                self.violations.add(
                    "wrong_configuration",
                    f"{self._told(called)}: the backend was asked by {one.revision}, in force: {sorted(known)}",
                )
        reasons = [self._unexplained(called, asked, one, excused) for one in rules]
        if rules and all(reasons):
            self.violations.add("inexplicable", f"{self._told(called)}: " + "; ".join(dict.fromkeys(map(str, reasons))))

    def _judge_count(self, called: Called, asked: list[Asked]) -> None:
        """One request to a backend for each sending; one more for each that a retry rule or a failover allows."""
        excuse = next((held for held in self._held for one in called.attempts if held.has(one, SLACK)), None)
        rules = [app for one in self._rules(called, excuse) if (app := one.apps.get(called.app))]
        each = max((_requests(app) for app in rules), default=1)
        # By default a kept connection that ends without a byte counts as closed before: each attempt is made again.
        each *= 1 + any(UNREACHABLE in MODES[one.mode].outcomes for one in asked)
        if len(asked) > each * len(called.attempts):
            modes = ", ".join(f"{one.backend} {one.mode}" for one in asked)
            self.violations.add("asked_twice", f"{self._told(called)}: {len(asked)} requests to backends ({modes})")

    def _unexplained(self, called: Called, asked: list[Asked], rules: Rules, excused: Held | None) -> str | None:
        """Why this answer cannot be by these rules; None where it can."""
        app = rules.apps.get(called.app)
        if app is None:
            return None if called.problem and called.status == 403 else f"{rules.revision} has no such app"
        if called.problem:
            return "the gateway took it for no hook that may be sent"
        if app.static is not None:
            return _unlike_static(called, app.static, rules.revision)
        event = called.method.endswith("Event") and not called.method.startswith("On")
        possible = {outcome for one in asked for outcome in outcomes(one.mode, event)}
        if not called.proxy_status:
            return _unlike_backend(called, asked, possible)
        causes = _causes(called.proxy_status)
        for cause in causes:
            if (cause in possible or self._can_be(cause, called, asked, app, excused)) and _is_fallback(
                called, cause in app.allowed
            ):
                return None
        seen = ", ".join(one.mode for one in asked) or "nothing"
        return f"{rules.revision} does not explain {called.proxy_status!r} where the backend did {seen}"

    def _can_be(self, cause: str, called: Called, asked: list[Asked], app: AppRules, excused: Held | None) -> bool:
        """Whether a failure has its cause outside what a backend did with this very hook."""
        begun, ended = called.begun, called.ended
        if cause == TIMEOUT:
            return ended - called.attempts[-1].begun >= app.timeout - 0.1 or excused is not None
        if self._windows.met("descriptors", begun, ended):
            return True
        if cause == OVERLOAD:
            return app.limited
        if cause == UNREACHABLE and called.app == "victim":
            return self._windows.met("sick", begun - BREAKER_MEMORY, ended)
        return False

    def _told(self, called: Called) -> str:
        attempts = " then ".join(map(str, called.attempts))
        return f"{called.id} ({called.method}) begun {called.begun:.3f}, {attempts}: {called.status or 'nothing'}"


def _requests(app: AppRules) -> int:
    each = app.attempts if app.retries_resets else 1
    return each + (1 if app.failover else 0)


def _causes(proxy_status: str) -> tuple[str, ...]:
    token = proxy_status.partition("error=")[2].partition(";")[0].strip()
    received = proxy_status.partition("received-status=")[2]
    if token == "http_protocol_error" and received:
        return (BAD_ANSWER,) if received.strip() == "200" else (ERROR_STATUS,)
    return _TOKENS.get(token, ())


def _is_fallback(called: Called, allowed: bool) -> bool:
    if allowed:
        return called.status == 200 and called.answer == called.body
    return called.status == 403 and called.empty


def _unlike_static(called: Called, static: str, revision: str) -> str | None:
    if static == "allow":
        fine = called.status == 200 and called.answer == called.body
    else:
        fine = called.status == 403 and called.empty and "http_request_denied" in called.proxy_status
    return None if fine else f"{revision} says {static} without a backend"


def _unlike_backend(called: Called, asked: list[Asked], possible: set[str]) -> str | None:
    """Without a Proxy-Status the verdict is the backend's own."""
    seen = ", ".join(one.mode for one in asked) or "nothing"
    if called.status == 403:
        return None if DENY in possible and called.empty else f"a backend's 403 where it did {seen}"
    if called.status != 200:
        return f"status {called.status}"
    if DELIVERED in possible and called.answer == called.body:
        return None
    if ALLOW not in possible:
        return f"a backend's 200 where it did {seen}"
    if called.answer not in {one.answer for one in asked}:
        return "the answer's body is not the one that the backend sent"
    return None
