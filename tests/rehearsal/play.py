"""The rehearsal, step by step."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from gateway.model.hooks import MethodType, method_type
from tests.rehearsal.day import CLIENT_CONFIG, NUISANCE, UNLISTED, Hook, day
from tests.rehearsal.sending import Sending, Sent
from tests.rehearsal.stage import PHP_WORKERS, SETTLE_LIMIT, Expected, Row, Stage, comes_true, gateway_command
from tests.support.gateways import wait_until

COMPARED: Final = ("connect", "OnCallEvent", "CallStatusEvent")
"""These backends have no side effects, so that every method may be shadowed."""
IGNORED: Final = "answeredBy"
"""A field that is meant to differ."""
PLANTED_PATH: Final = "restClientConfig.OnCallEvent.restPolicy"
FAIL_ON_CALL: Final = {"OnCallEvent": {"restOnError": "FAIL"}}
ENFORCED: Final = {**CLIENT_CONFIG, "OnCallEvent": {**CLIENT_CONFIG["OnCallEvent"], "restOnError": "FAIL"}}
UNLISTED_CALLEES: Final = [f"{UNLISTED}{number}" for number in range(70, 80)]
NOTICED_AFTER: Final = 5
"""Refusals without the backend's word that an operator, or an alert, waits for."""
PER_SECOND: Final = 50
BURST: Final = 20
ROUNDING: Final = 0.005
"""Seconds: the log's times are in milliseconds."""


class Rehearsal:
    """Plays the steps and keeps their rows."""

    def __init__(self, stage: Stage, hooks: int, stop_php: Callable[[], None]) -> None:
        self._stage = stage
        self._hooks = hooks
        self._stop_php = stop_php
        self._sending = 0
        self._record = stage.directory / "hooks.jsonl"
        self._planted = (0, 0)
        """How many recorded hooks the new backend's first version answers otherwise: calls, and connects."""
        self.rows: list[Row] = []

    def play(self) -> None:
        """All steps; what failed is in the stage's ``failures``."""
        for step in (
            self._baseline,
            self._record_it,
            self._replay_planted,
            self._shadow_planted,
            self._fix_and_replay,
            self._shadow_fixed,
            self._canary,
            self._roll_back,
            self._fail_over,
            self._ineffective,
            self._enforced,
            self._strict,
            self._repaired,
            self._blocked_by_rule,
            self._rate_limited,
        ):
            try:
                step()
            except (OSError, LookupError, ValueError, AssertionError, subprocess.SubprocessError) as exc:
                name = step.__name__.strip("_").replace("_", " ")
                self._stage.check(False, f"{name}: {type(exc).__name__}: {exc}")

    # --- (a) to (c): what is there, written down, played against the new one ---

    def _baseline(self) -> None:
        # What runs for the first time costs more: unmeasured, and not in the table.
        self._send("warm-up", hooks=min(self._hooks, 500))
        self.rows.clear()
        row = self._send("a. PHP alone")
        row.plain = True
        row.seen = f"p50 of all: {_median(row.answers):.1f} ms"

    def _record_it(self) -> None:
        stage = self._stage
        stage.configure(self._configuration(record={"path": str(self._record), "mask": []}))

        def written() -> float:
            return stage.metric("gateway_recorded_hooks_total", outcome="written")

        row = self._send("b. `record` on", settled=lambda: written() >= self._hooks)
        dropped = stage.metric("gateway_recorded_hooks_total", outcome="dropped")
        stage.check(dropped == 0, f"record: {dropped:g} hooks were not written down")
        stage.configure(self._configuration())
        self._planted = _planted(row.answers)
        row.seen = f"{written():g} written, {dropped:g} dropped, {self._record.stat().st_size / 2**20:.1f} MiB"

    def _replay_planted(self) -> None:
        stage = self._stage
        stage.candidate.start(as_ported=True)
        status, report = self._replay()
        stage.check(status == 1, f"replay ended with {status} in spite of the planted mistakes")
        disputed, connects = self._planted
        found = report["disagreements"]
        stage.check(sum(found.values()) == disputed + connects, f"replay: {found}, planted: {self._planted}")
        stage.check(PLANTED_PATH in report["paths"], f"replay: {report['paths']}")
        self._note("c. `gateway replay` on new", f"exit status {status}: {_listed(found)}; {_listed(report['paths'])}")

    # --- (d), (e): the new one in the shadow ---

    def _shadow_planted(self) -> None:
        row, outcomes = self._shadow("d. `shadow` 100 %, planted")
        stage = self._stage
        disputed, connects = _planted(row.answers)
        found, bodies = outcomes["verdict_differs"], outcomes["body_differs"]
        stage.check(disputed, "the day has no disputed call: too few hooks")
        dropped = outcomes["dropped"]
        stage.check(disputed - dropped <= found <= disputed, f"shadow: {found} of {disputed} disputed calls were found")
        stage.check(connects - dropped <= bodies <= connects, f"shadow: {bodies} of {connects} other bodies were found")
        shown = stage.gateway.get("/api/decisions", params={"shadow": "differs", "limit": "500"}).json()["decisions"]
        stage.check(shown, "the API shows no call whose shadow differs")
        paths = {difference["path"] for call in shown for difference in call["shadow"]["differences"]}
        stage.check(PLANTED_PATH in paths, f"the API shows other differences than the planted one: {sorted(paths)}")
        told = gateway_command("decisions", "--admin", f"http://{stage.gateway.admin}", "--shadow", "differs")
        stage.check(told.returncode == 0 and told.stdout.strip(), f"decisions --shadow: {told.stdout}{told.stderr}")
        row.seen = f"{_told(outcomes)}; the API shows `{PLANTED_PATH}`"

    def _fix_and_replay(self) -> None:
        self._stage.candidate.start(as_ported=False)
        status, report = self._replay()
        found = report["disagreements"]
        self._stage.check(status == 0, f"replay ended with {status} though the candidate is fixed: {found}")
        self._note("e. new fixed, replay again", f"exit status {status}: {report['agreements']} agree")

    def _shadow_fixed(self) -> None:
        row, outcomes = self._shadow("e. `shadow` 100 %, fixed")
        differ = outcomes["verdict_differs"] + outcomes["body_differs"] + outcomes["candidate_failed"]
        self._stage.check(differ == 0, f"shadow: {_told(outcomes)}, though the candidate is fixed")
        row.seen = _told(outcomes)

    def _shadow(self, step: str) -> tuple[Row, Mapping[str, int]]:
        stage = self._stage
        stage.configure(
            self._configuration(
                shadow={"upstream": "new", "methods": list(COMPARED), "compare": "body", "ignore": [IGNORED]}
            )
        )
        names = ("match", "verdict_differs", "body_differs", "candidate_failed", "dropped")
        before = {name: stage.metric("gateway_shadow_hooks_total", outcome=name) for name in names}
        all_before = sum(before.values())
        row = self._send(step, settled=lambda: stage.metric("gateway_shadow_hooks_total") - all_before >= self._hooks)
        outcomes = {
            name: int(stage.metric("gateway_shadow_hooks_total", outcome=name) - before[name]) for name in names
        }
        stage.check(sum(outcomes.values()) == self._hooks, f"{step}: {outcomes} of {self._hooks} hooks")
        stage.configure(self._configuration())
        return row, outcomes

    # --- (f), (g): over to the new one, and back ---

    def _canary(self) -> None:
        stage = self._stage
        moves: list[tuple[float, float]] = []
        weights = (5, 50, 100)

        def raise_weight(weight: int) -> None:
            began = time.time()
            moves.append((began, stage.configure(self._split(weight))))

        def raise_it(sending: Sending) -> None:
            for part, weight in enumerate(weights[1:], 1):
                sending.wait_for(part / len(weights))
                raise_weight(weight)

        raise_weight(weights[0])
        before = self._lines()
        row = self._send("f. canary 5 → 50 → 100 %", meanwhile=raise_it)
        lines = self._lines_since(before, row.hooks)
        by_session: dict[str, list[tuple[float, str]]] = defaultdict(list)
        for line in lines:
            by_session[line["session_id"]].append((_began(line), line["upstream"]))
        for session, asked in by_session.items():
            stage.check(_moves_only_then(sorted(asked), moves), f"session {session} went to and fro: {asked}")
        shares = []
        for weight, (_, start), end in zip(
            weights, moves, [*(began for began, _ in moves[1:]), time.time()], strict=True
        ):
            names = {line["session_id"]: line["upstream"] for line in lines if start <= _began(line) < end}
            share = 100 * sum(name == "new" for name in names.values()) / max(1, len(names))
            shares.append(f"{weight} % → {share:.1f} % of {len(names)} sessions")
            low, high = (weight / 4, weight * 3) if weight < 50 else (weight - 20, weight + 20)
            stage.check(low <= share <= high or self._hooks < 2000, f"canary: {shares[-1]}")
        stage.check(any(line["upstream"] == "new" for line in lines), "canary: the new backend was never asked")
        moved = sum(len({name for _, name in asked}) == 2 for asked in by_session.values())
        row.seen = f"{'; '.join(shares)}; {moved} sessions moved, each once, php → new"

    def _roll_back(self) -> None:
        stage = self._stage
        stage.configure(self._split(50))
        moments: dict[str, float] = {}

        def noticed() -> bool:
            return stage.metric("gateway_hooks_total", source="fallback") - before >= NOTICED_AFTER

        def spoil(sending: Sending) -> None:
            sending.wait_for(1 / 3)
            moments["bad"] = time.time()
            stage.candidate.turn_bad()
            stage.check(comes_true(noticed), "roll back: nobody noticed the bad backend")
            moments["noticed"] = time.time()
            moments["back"] = stage.configure(self._split(0))

        before = stage.metric("gateway_hooks_total", source="fallback")
        row = self._send(
            "g. new answers 500 → weight 0",
            Expected(may_be_affected=lambda sent: "received-status=500" in sent.proxy_status),
            meanwhile=spoil,
        )
        stage.candidate.turn_well()
        late = [sent for sent in row.answers if sent.began > moments["back"] and sent.proxy_status]
        stage.check(not late, f"roll back: {len(late)} hooks were affected after the reload")
        row.seen = (
            f"{row.affected} hooks refused for want of a verdict; noticed after {_ms(moments, 'bad', 'noticed')}, "
            f"rolled back {_ms(moments, 'noticed', 'back')} later, none after that"
        )

    def _fail_over(self) -> None:
        stage = self._stage
        stage.configure(self._split(50, failover=["php"]))
        before = stage.metric("gateway_failovers_total", upstream="new")
        lines = self._lines()
        moments: dict[str, float] = {}

        def kill(sending: Sending) -> None:
            sending.wait_for(1 / 3)
            moments["killed"] = time.time()
            stage.candidate.kill()
            sending.wait_for(2 / 3)
            stage.configure(self._split(0))

        # What it had in hand when it was killed may have been acted on: that is not asked again.
        in_hand = Expected(
            may_be_affected=lambda sent: sent.began <= moments["killed"] + 0.1 and bool(sent.proxy_status)
        )
        row = self._send("g. new killed, `failover: [php]`", in_hand, meanwhile=kill)
        failed_over = stage.metric("gateway_failovers_total", upstream="new") - before
        stage.check(failed_over, "fail over: no hook was")
        self._check_lines(lines, row.hooks, "failed_over_from", "new", failed_over)
        row.seen = f"{failed_over:g} hooks asked of php in its place; {row.affected} were in its hands when it died"
        stage.candidate.start(as_ported=False)

    # --- (h), (i): refusals that count, answers repaired ---

    def _ineffective(self) -> None:
        stage = self._stage
        stage.configure(self._configuration(rest_client_config="warn"))
        before = stage.metric("gateway_ineffective_rejects_total")
        lines = self._lines()
        row = self._send("h. `rest_client_config: warn`")
        self._check_lines(lines, row.hooks, "ineffective", True, row.reject)
        ineffective = stage.metric("gateway_ineffective_rejects_total") - before
        stage.check(
            ineffective == row.reject, f"warn: {ineffective:g} of {row.reject} rejections are reported as ineffective"
        )
        row.plain = True  # warn is the default
        row.seen = f"{ineffective:g} of {row.reject} refusals stop nothing"

    def _enforced(self) -> None:
        stage = self._stage
        stage.configure(self._configuration(rest_client_config={"mode": "enforce", "methods": FAIL_ON_CALL}))
        before = stage.metric("gateway_ineffective_rejects_total")
        amended = stage.metric("gateway_client_config_answers_total", outcome="enforced")
        row = self._send("h. `rest_client_config: enforce`", Expected(client_configs=(ENFORCED,)))
        ineffective = stage.metric("gateway_ineffective_rejects_total") - before
        amended = stage.metric("gateway_client_config_answers_total", outcome="enforced") - amended
        connects = sum(sent.hook.method == "connect" for sent in row.answers)
        stage.check(ineffective == 0, f"enforce: {ineffective:g} refusals are still ineffective")
        stage.check(amended == connects, f"enforce: {amended:g} of {connects} connect answers were amended")
        row.seen = f"{ineffective:g} of {row.reject} refusals stop nothing; {amended:g} connect answers amended"

    def _strict(self) -> None:
        stage = self._stage
        stage.configure(self._configuration())
        spoilt = Expected(may_be_affected=lambda sent: sent.hook.unlisted and sent.status == 403)
        row = self._send("i. notices, `response_check: strict`", spoilt, callees=UNLISTED_CALLEES)
        unlisted = self._unlisted(row)
        stage.check(row.affected == unlisted > 0, f"strict: {row.affected} of {unlisted} spoilt answers were refused")
        row.seen = f"{row.affected} calls refused as `bad_answer`"

    def _repaired(self) -> None:
        stage = self._stage
        stage.configure(self._configuration(response_check="repair"))
        lines = self._lines()
        row = self._send("i. notices, `response_check: repair`", callees=UNLISTED_CALLEES)
        repaired, unlisted = stage.metric("gateway_repaired_answers_total", kinds="before"), self._unlisted(row)
        stage.check(repaired == unlisted, f"repair: {repaired:g} of {unlisted} spoilt answers were repaired")
        self._check_lines(lines, row.hooks, "repaired", "before", unlisted)
        shown = stage.gateway.get("/api/decisions", params={"repaired": "1"}).json()["decisions"]
        stage.check(
            shown and "Undefined" in shown[0]["cut"], f"repair: the API does not tell what was cut: {shown[:1]}"
        )
        row.seen = f"{repaired:g} answers repaired; the journal has the notice"

    @staticmethod
    def _unlisted(row: Row) -> int:
        return sum(sent.hook.unlisted and not sent.hook.refused for sent in row.answers)

    # --- (j), (k): without a backend ---

    def _blocked_by_rule(self) -> None:
        stage = self._stage
        rules = [{"name": "nuisance", "caller": NUISANCE, "verdict": "reject"}]
        stage.configure(self._configuration(rules=rules, fallback={"unreachable": "allow"}))
        self._stop_php()

        def blocked(hook: Hook) -> bool:
            asks = method_type(hook.method) in (MethodType.DIRECT, MethodType.INCOMING)  # rules leave events alone
            return asks and hook.fields["caller"] == NUISANCE

        # Nobody is there to set a session's restClientConfig, and a fallback's yes is the hook's own body.
        expected = Expected(refused=blocked, client_configs=(None,))
        lines = self._lines()
        row = self._send("j. PHP stopped; a rule", expected, callers=[NUISANCE], hooks=min(self._hooks, 600))
        self._check_lines(lines, row.hooks, "rule", "nuisance", row.reject)
        stage.check("nuisance" in self._explained(row.answers, blocked), "explain does not name the rule")
        hits = stage.metric("gateway_rule_hits_total", rule="nuisance")
        stage.check(hits == row.reject > 0, f"rule: {hits:g} hits, {row.reject} refusals")
        row.seen = f"{row.reject} hooks of one number refused by the rule, the others let pass by `fallback`"

    def _rate_limited(self) -> None:
        stage = self._stage
        stage.configure(self._configuration(upstream="new"))
        is_back = wait_until(lambda: stage.gateway.hook("CallStatusEvent").status_code == 200, SETTLE_LIMIT)
        stage.check(is_back, "the new backend is not asked again after its return")
        stage.configure(self._configuration(upstream="new", rate_limit=f"{PER_SECOND}/s burst {BURST}"))
        before = stage.metric("gateway_rate_limited_total")
        limited = Expected(may_be_affected=lambda sent: "connection_limit" in sent.proxy_status)
        row = self._send("k. `rate_limit: 50/s burst 20`", limited, rate=4 * PER_SECOND, hooks=min(self._hooks, 600))
        refused = stage.metric("gateway_rate_limited_total") - before
        began, ended = min(sent.began for sent in row.answers), max(sent.ended for sent in row.answers)
        let_in, most = row.hooks - refused, BURST + PER_SECOND * (ended - began) + 1
        stage.check(refused, "rate limit: nothing was refused")
        stage.check(BURST <= let_in <= most, f"rate limit: {let_in:g} hooks passed, {most:.0f} at most should")
        row.seen = f"{refused:g} refused as `overload`; {let_in / (ended - began):.0f} a second passed"

    # --- what the steps have in common ---

    def _send(
        self,
        step: str,
        expected: Expected | None = None,
        *,
        hooks: int | None = None,
        callees: Sequence[str] = (),
        callers: Sequence[str] = (),
        rate: float | None = None,
        meanwhile: Callable[[Sending], None] = lambda _: None,
        settled: Callable[[], object] = lambda: True,
    ) -> Row:
        self._sending += 1
        sessions = day(hooks or self._hooks, self._sending, callees=callees, callers=callers)
        row = self._stage.send(step, sessions, expected, rate=rate, meanwhile=meanwhile, settled=settled)
        self.rows.append(row)
        print(f"{step}: {row.hooks} hooks, {row.lost} lost", file=sys.stderr, flush=True)
        return row

    def _note(self, step: str, seen: str) -> None:
        self.rows.append(Row(step, seen=seen))
        print(step, file=sys.stderr, flush=True)

    def _configuration(self, record: Mapping[str, Any] | None = None, **app: Any) -> str:
        stage = self._stage
        return configuration(stage.php.url, stage.candidate.url, stage.workers, record, **app)

    def _split(self, weight: int, **app: Any) -> str:
        shares = [{"name": "php", "weight": 100 - weight}, {"name": "new", "weight": weight}]
        return self._configuration(upstream=shares, **app)

    def _replay(self) -> tuple[int, dict[str, Any]]:
        """Play the recorded hooks against the candidate; the exit status and the report."""
        done = gateway_command(
            *("replay", f"{self._record}*", "--to", self._stage.candidate.url, "--all-methods", "--compare", "body"),
            *("--ignore", IGNORED, "--json", "-"),
        )
        try:
            report: dict[str, Any] = json.loads(done.stdout)
        except ValueError as exc:
            raise AssertionError(f"no JSON: {done.stdout[-500:]}{done.stderr[-500:]}") from exc
        self._stage.check(report["played"] == self._hooks, f"replay: {report['played']} of {self._hooks} hooks played")
        return done.returncode, report

    def _explained(self, answers: Sequence[Sent], wanted: Callable[[Hook], bool]) -> str:
        """What ``gateway explain`` says of the first such hook."""
        hook = next(sent.hook for sent in answers if wanted(sent.hook))
        file = self._stage.directory / "hook.json"
        file.write_bytes(hook.body)
        config = str(self._stage.gateway.config)
        return gateway_command("explain", str(file), "--method", hook.method, "-c", config).stdout

    def _check_lines(self, before: int, count: int, field: str, value: object, wanted: float) -> None:
        """So many access lines of the last sending have this value in this field, and no others have the field."""
        found = [line[field] for line in self._lines_since(before, count) if field in line]
        self._stage.check(found == [value] * int(wanted), f"log: {len(found)} lines have {field}, not {wanted:g}")

    def _lines(self) -> int:
        """Access lines so far, those that the log still gathers included."""
        decided = self._stage.metric("gateway_hooks_total")
        wait_until(lambda: len(self._stage.gateway.access_lines()) >= decided, SETTLE_LIMIT)
        return int(decided)

    def _lines_since(self, before: int, count: int) -> list[dict[str, Any]]:
        gateway = self._stage.gateway
        wait_until(lambda: len(gateway.access_lines()) >= before + count, SETTLE_LIMIT)
        lines = gateway.access_lines()[before:]
        self._stage.check(len(lines) == count, f"{count} hooks have {len(lines)} access lines")
        return lines


def configuration(php: str, new: str, workers: int, record: Mapping[str, Any] | None = None, **app: Any) -> str:
    """The gateway's file; *app* is what is said of the one app."""
    everything: dict[str, Any] = {
        "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": workers},
        "defaults": {"timeout": "5s"},
        "upstreams": {
            "php": {"url": php, "max_connections": PHP_WORKERS},
            "new": {"url": new, "breaker": {"open_for": "1s"}},
        },
        "apps": {"defaultApp": {"upstream": "php", **app}},
    }
    return json.dumps(everything | ({"record": record} if record else {}), indent=2)


def _began(line: Mapping[str, Any]) -> float:
    """When a hook of an access line began, as Unix time."""
    return datetime.fromisoformat(line["ts"]).timestamp()


def _moves_only_then(asked: Sequence[tuple[float, str]], moves: Sequence[tuple[float, float]]) -> bool:
    """Whether a session's hooks met one upstream, but for moves from php to new while the weights were changed."""
    for (before, old), (after, new) in itertools.pairwise(asked):
        if old != new and (
            new != "new" or not any(before <= done + ROUNDING and after >= began - ROUNDING for began, done in moves)
        ):
            return False
    return True


def _told(outcomes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in outcomes.items() if count or name in ("match", "dropped"))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _planted(answers: Sequence[Sent]) -> tuple[int, int]:
    """How many calls are disputed, and how many connect answers differ, between PHP and the new one's first version."""
    connects = sum(sent.hook.method == "connect" for sent in answers)
    return sum(sent.hook.disputed for sent in answers), connects


def _ms(moments: Mapping[str, float], begin: str, end: str) -> str:
    return f"{1000 * (moments[end] - moments[begin]):.0f} ms"


def _median(answers: Sequence[Sent]) -> float:
    times = sorted(sent.ended - sent.began for sent in answers)
    return 1000 * times[len(times) // 2]
