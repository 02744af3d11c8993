"""What we give to operators for Prometheus: it is sound, each alert fires when it should, every expression has data."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import typer.core
import typer.main
import yaml

from gateway.cli.main import app
from gateway.telemetry.metrics import Metrics
from tests.deploy.expressions import (
    PROMETHEUS,
    Expression,
    Prometheus,
    alerts,
    dashboard,
    filled_in,
    prometheus,
    recorded,
    rules,
    shown,
)
from tests.support.faulty import FaultyBackend, Turn, added_case, make_certificates, reply
from tests.support.gateways import ROOT, RunningGateway, running_gateway, wait_until
from tests.support.programs import require
from tests.support.redis import redis_server

RUNBOOKS: Final = ROOT / "docs" / "alerts.md"
TESTS: Final = sorted((PROMETHEUS / "tests").glob("*.yml"))
PATIENCE: Final = 30.0
"""Seconds for what takes one on an idle machine."""
WAVES: Final = 20
"""How often faults are provoked at most until each has left its trace in Prometheus."""

CASES: Final = ("ok", "denied", "hang", "body_bom", "status_500", "close_after_idle", "close_without_a_byte", "down")
WAVE: Final = {
    "ok": 4,
    "denied": 1,
    "hang": 8,
    "body_bom": 2,
    "status_500": 2,
    "close_after_idle": 2,
    "close_without_a_byte": 4,
    "down": 2,
    "narrow": 6,
    "nobody": 1,
    "unheeded": 4,
    "diverted": 1,
    "polluted": 3,
    "doubted": 3,
    "canary": 3,
    "away": 3,
    "blocked": 1,
    "hasty": 3,
}
"""Hooks of each app that make up a wave."""
BROKEN: Final = 6
"""Requests of a wave that are no hook."""
PLAIN: Final = 3
"""Connections of a wave that speak no TLS where TLS is spoken."""

PROVOKED: Final = {
    "WcsHooksRejectedByFallback",
    "WcsSomeHooksRejectedByFallback",
    "WcsHooksAllowedByFallback",
    "WcsManyHooksAllowedByFallback",
    "WcsHooksNearBudget",
    "WcsOverload",
    "WcsHooksNotAccepted",
    "WcsUpstreamDown",
    "WcsTargetDown",
    "WcsBackendAnswersWrong",
    "WcsGatewayDown",
    "WcsReloadFailed",
    "WcsCertificateExpires",
    "WcsTlsHandshakesFail",
    "WcsWorkerDied",
    "WcsRejectionsIgnored",
    "WcsChangesIgnored",
    "WcsFailoverActive",
    "WcsRepairsRise",
    "WcsShadowDisagrees",
}
"""Alerts that a real Prometheus holds pending or firing on what happens here."""
WITHOUT_DATA: Final = {
    'job_app_verdict_source_reason:gateway_hooks:increase5m{reason="internal"}': "nobody knows a defect to provoke",
}
"""Series that are rightly empty here, and why."""


# --- the files ---


def promtool(*arguments: str, directory: Path = PROMETHEUS) -> str:
    """What promtool says; the test fails if that is a complaint."""
    program = require("promtool", "prometheus")
    done = subprocess.run([program, *arguments], cwd=directory, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.real
def test_prometheus_takes_the_configuration() -> None:
    assert "2 rule files found" in promtool("check", "config", "--lint=all", "--lint-fatal", "prometheus.yml")


@pytest.mark.real
def test_prometheus_takes_the_rules() -> None:
    said = promtool("check", "rules", "--lint=all", "--lint-fatal", "rules.yml", "alerts.yml")
    assert f"{len(recorded())} rules found" in said
    assert f"{len(alerts())} rules found" in said


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("file", TESTS, ids=[file.stem for file in TESTS])
def test_rules_and_alerts_do_what_their_tests_say(file: Path) -> None:
    promtool("test", "rules", file.name, directory=file.parent)


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    fires: dict[str, set[bool]] = {}
    for file in TESTS:
        for case in yaml.safe_load(file.read_text())["tests"]:
            for check in case.get("alert_rule_test", ()):
                fires.setdefault(check["alertname"], set()).add(bool(check["exp_alerts"]))
    assert fires == {alert.place: {True, False} for alert in alerts()}


def test_every_recorded_series_is_asked_for() -> None:
    texts = " ".join(expression.text for expression in (*recorded(), *alerts(), *shown()))
    assert [rule.place for rule in recorded() if rule.place not in texts] == []


def test_every_metric_of_the_gateway_is_of_use_to_somebody() -> None:
    names = set(re.findall(r"# TYPE (gateway_\w+)", Metrics("x").render().decode()))
    texts = " ".join(expression.text for expression in (*recorded(), *alerts(), *shown()))
    assert [name for name in sorted(names) if name not in texts] == []


@pytest.mark.parametrize("rule", rules("alerts.yml"), ids=[rule["alert"] for rule in rules("alerts.yml")])
def test_an_alert_says_how_bad_it_is_what_happened_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["labels"] == {"severity": rule["labels"]["severity"], "service": "wcs-gateway"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    told = rule["annotations"]
    assert told.keys() == {"summary", "description", "runbook_url"}
    assert len(told["summary"]) < 160
    assert told["description"].endswith(".")
    assert told["runbook_url"] == f"docs/alerts.md#{rule['alert'].lower()}"


def test_every_alert_has_its_runbook_and_no_other_has() -> None:
    titles = re.findall(r"^## (Wcs\w+)$", RUNBOOKS.read_text("utf-8"), re.MULTILINE)
    assert titles == [alert.place for alert in alerts()]


def test_a_runbook_says_what_it_means_where_to_look_what_to_do_and_when_to_leave_it() -> None:
    sections = re.split(r"^## ", RUNBOOKS.read_text("utf-8"), flags=re.MULTILINE)
    for section in sections:
        if section.startswith("Wcs"):
            name = section.partition("\n")[0]
            headings = re.findall(r"^\*\*([^*]+)\*\*", section, re.MULTILINE)
            assert headings == ["Effect on calls:", "Check:", "Do:", "Ignore it:"], name


def test_a_runbook_names_only_commands_and_options_that_there_are() -> None:
    text = RUNBOOKS.read_text("utf-8")
    program = typer.main.get_command(app)
    assert isinstance(program, typer.core.TyperGroup)
    lines = re.findall(r"`gateway ([a-z]+)([^`#]*)`|^gateway ([a-z]+)([^#\n]*)", text, re.MULTILINE)
    assert lines
    for line in lines:
        name, rest = line[:2] if line[0] else line[2:]
        command = program.commands[name]
        if isinstance(command, typer.core.TyperGroup):  # gateway spool list
            command = command.commands[rest.split()[0]]
        options = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"(?<!\w)--?[a-z][a-z-]*", rest)) <= options, line


def test_a_runbook_asks_only_for_metrics_that_there_are() -> None:
    known = set(re.findall(r"# TYPE (gateway_\w+)", Metrics("x").render().decode()))
    known |= {rule.place for rule in recorded()}
    text = " ".join(re.findall(r"```promql\n(.*?)```", RUNBOOKS.read_text("utf-8"), re.DOTALL))
    asked = {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\b(?:gateway_|job_)[\w:]+", text)}
    assert asked
    assert asked <= known


# --- a real Prometheus, and gateways whose backends fail in every way ---


class Watched(NamedTuple):
    """Gateways in trouble and the Prometheus that watches them."""

    prometheus: Prometheus
    gateway: RunningGateway
    secured: RunningGateway
    without_data: set[str]
    """Expressions for which Prometheus had no data when all faults had been provoked."""
    raised: dict[str, dict[str, Any]]
    """The alerts that were pending or fired then, by name."""


def polluted(turn: Turn) -> list[bytes]:
    """A PHP notice, and then the hook's own body."""
    notice = b"<br />\n<b>Notice</b>:  Undefined index: sip in <b>/srv/old.php</b> on line <b>7</b><br />\n"
    return [reply(notice + turn.request.body)]


def configuration(backend: FaultyBackend, recording: Path, state: str) -> str:
    upstreams: dict[str, dict[str, Any]] = {
        name: {"url": backend.url_of(name), "breaker": "off"} for name in CASES if name != "down"
    }
    upstreams["down"] = {
        "url": backend.url_of("close_without_a_byte"),
        "breaker": {"failures": 1, "window": "1m", "open_for": "1m"},
    }
    upstreams["lost"] = upstreams["down"]  # but an app of its own: what several share is not ejected for one
    upstreams["polluted"] = {"url": backend.url_of("polluted_watched")}
    apps: dict[str, dict[str, Any]] = {name: {"upstream": name, "timeout": "5s"} for name in CASES}
    apps["hang"]["timeout"] = "300ms"
    apps["close_without_a_byte"]["fallback"] = {"unreachable": "allow"}
    apps["unheeded"] = {"upstream": "denied", "rules": [{"methods": "connect", "upstream": "ok"}]}
    upstreams["silent"] = {"url": backend.url_of("close_without_a_byte"), "breaker": "off"}
    apps["diverted"] = {
        "upstream": "silent",
        "rules": [{"methods": "connect", "verdict": "allow"}],
        "fallback": {"unreachable": {"allow": {"callee": "1000"}}},
    }
    apps["polluted"] = {"upstream": "polluted", "response_check": "repair"}
    apps["doubted"] = {"upstream": "ok", "shadow": {"upstream": "denied"}}
    apps["canary"] = {"upstream": [{"name": "ok", "weight": 1}, {"name": "close_after_idle", "weight": 1}]}
    apps["away"] = {"upstream": "lost", "failover": ["ok"]}
    apps["blocked"] = {"upstream": "ok", "rules": [{"name": "all", "callee": "*", "verdict": "reject"}]}
    apps["hasty"] = {"upstream": "ok", "rate_limit": "1/m burst 2"}
    apps["narrow"] = {"upstream": "hang", "timeout": "300ms", "max_in_flight": 2}
    apps["kept"] = {"upstream": "silent", "spool": {"max_age": "1h"}}
    return json.dumps(
        {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": 2},
            "defaults": {"dedupe": "off"},
            "upstreams": upstreams,
            "apps": apps,
            "record": {"path": str(recording)},
            "store": {"url": f"sqlite:///{recording.parent}/store.db"},
            "history": {},
            "state": {"url": state},
        }
    )


def unheard(sock: socket.socket) -> str:
    """An address where nobody listens, nor anybody else will."""
    sock.bind(("127.0.0.1", 0))
    return f"127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Faults come in waves, until Prometheus has data for every expression and holds every alert that is due."""
    require("prometheus", "prometheus")
    directory = tmp_path_factory.mktemp
    certificates = make_certificates(directory("certificates"))
    tls = {"certificate": str(certificates.valid[0]), "key": str(certificates.valid[1])}
    server = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "tls": tls}
    short_lived = json.dumps({"server": server, "apps": {"defaultApp": {"static": "allow"}}})
    with (
        socket.socket() as gone,
        FaultyBackend() as backend,
        added_case("polluted_watched", "A notice, then the hook's own body.", polluted),
        redis_server() as redis,
        running_gateway(
            configuration(backend, directory("record") / "hooks.jsonl", redis.url), directory("gateway")
        ) as gateway,
        running_gateway(short_lived, directory("secured")) as secured,
        prometheus([gateway.admin, secured.admin, unheard(gone)], directory("prometheus")) as watching,
    ):
        yield Watched(watching, gateway, secured, *provoke(watching, gateway, secured))


def provoke(
    watching: Prometheus, gateway: RunningGateway, secured: RunningGateway
) -> tuple[set[str], dict[str, dict[str, Any]]]:
    """A reload that fails, a worker's death, then wave upon wave, until everything is seen; what is, in the end."""
    assert wait_until(lambda: len(watching.values("up == 1")) == 2, PATIENCE), "the gateways are not scraped"
    gateway.write_config(gateway.config.read_text().replace('"apps"', '"aps"'))
    assert wait_until(lambda: gateway.metric("gateway_config_last_reload_successful") == 0, PATIENCE)
    os.kill(gateway.get("/api/status").json()["workers"][0], signal.SIGKILL)
    assert wait_until(lambda: gateway.metric("gateway_worker_deaths_total") == 1, PATIENCE)
    assert wait_until(lambda: gateway.metric("gateway_workers") == 2, PATIENCE)
    for _ in range(WAVES):
        assert secured.post("/-/reload").status_code == 200
        wave(gateway, secured)
        time.sleep(1.0)  # a scrape and an evaluation later
        without_data, raised = unseen(watching), watching.alerts()
        if without_data == WITHOUT_DATA.keys() and raised.keys() >= PROVOKED:
            break
    return without_data, raised


def wave(gateway: RunningGateway, secured: RunningGateway) -> None:
    """Every app meets its fault, and some requests are no hooks."""

    def send(app: str) -> int:
        session = "that has connected" if app in {"unheeded", "diverted"} else uuid.uuid4().hex
        return gateway.hook(appKey=app, n=uuid.uuid4().hex, sessionId=session, callee="100").status_code

    settings = {"call": {"restExclude": "sessionId"}}
    for name in ("unheeded", "diverted"):
        fields: dict[str, Any] = {"appKey": name, "sessionId": "that has connected", "restClientConfig": settings}
        assert gateway.hook("connect", **fields).status_code == 200
    with ThreadPoolExecutor(10) as pool:
        statuses = list(pool.map(send, [app for app, count in WAVE.items() for _ in range(count)]))
    assert set(statuses) == {200, 403}
    event = gateway.hook("CallStatusEvent", appKey="kept", callId=uuid.uuid4().hex)
    assert event.status_code == 200
    for _ in range(BROKEN):
        assert gateway.hook(body=b"no JSON").status_code == 400
    for _ in range(PLAIN):
        host, port = secured.hooks.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\n\r\n")
            while sock.recv(4096):
                pass


def unseen(watching: Prometheus) -> set[str]:
    """Expressions that have no data."""
    whole = [text for rule in recorded() for text in (rule.place, rule.text)] + [panel.text for panel in shown()]
    parts = [selector for alert in alerts() for selector in alert.selectors]
    return {text for text in (*whole, *parts) if not watching.has(text)}


def variables() -> list[Expression]:
    return [
        Expression(variable["name"], filled_in(variable["query"]["query"]))
        for variable in dashboard()["templating"]["list"]
        if variable["type"] == "query"
    ]


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("expression", recorded(), ids=[rule.place for rule in recorded()])
def test_a_recorded_expression_has_data_and_so_has_what_it_is_recorded_as(
    watched: Watched, expression: Expression
) -> None:
    assert not watched.without_data & {expression.text, expression.place}


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("alert", alerts(), ids=[alert.place for alert in alerts()])
def test_every_series_that_an_alert_asks_for_has_data(watched: Watched, alert: Expression) -> None:
    assert alert.selectors
    assert watched.without_data & set(alert.selectors) <= WITHOUT_DATA.keys()


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("expression", shown(), ids=[expression.place for expression in shown()])
def test_a_panels_expression_has_data(watched: Watched, expression: Expression) -> None:
    assert expression.text not in watched.without_data


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("expression", variables(), ids=[expression.place for expression in variables()])
def test_a_variable_of_the_dashboard_has_values_to_choose_from(watched: Watched, expression: Expression) -> None:
    found = re.fullmatch(r"label_values\((.+), (\w+)\)", expression.text)
    assert found is not None
    assert watched.prometheus.ask(f"label/{found[2]}/values", **{"match[]": found[1]})


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("name", sorted(PROVOKED))
def test_an_alert_that_is_due_is_raised_with_its_texts_filled_in(watched: Watched, name: str) -> None:
    assert name in watched.raised
    assert watched.raised[name]["state"] in ("pending", "firing")
    for text in watched.raised[name]["annotations"].values():
        assert "<no value>" not in text
        assert "error" not in text.replace("error_status", "")


@pytest.mark.slow
@pytest.mark.real
def test_a_runbook_names_only_paths_of_the_admin_port_that_there_are(watched: Watched) -> None:
    paths = set(re.findall(r"(?:GET |POST |`)(/(?:-|api)/[\w/-]+)", RUNBOOKS.read_text("utf-8")))
    assert {"/-/reload", "/-/undrain", "/api/upstreams"} <= paths
    for path in paths:
        assert watched.gateway.get(path).status_code in (200, 405), path


@pytest.mark.slow
@pytest.mark.real
def test_no_rule_meets_an_error(watched: Watched) -> None:
    groups = watched.prometheus.ask("rules")["groups"]
    found = {rule["name"]: (rule["health"], rule.get("lastError", "")) for group in groups for rule in group["rules"]}
    assert found.keys() == {rule.place for rule in (*recorded(), *alerts())}
    assert {name: state for name, state in found.items() if state != ("ok", "")} == {}


@pytest.mark.slow
@pytest.mark.real
def test_calls_are_told_from_what_else_fails(watched: Watched) -> None:
    """The alert names the app and the cause: timeouts are the silent backend's app's, and nobody else's."""
    refused = watched.prometheus.ask(
        "query", query='job_app_reason:gateway_hooks_rejected_by_fallback:increase5m{reason="timeout"} > 0'
    )["result"]
    assert {series["metric"]["app"] for series in refused} <= {"hang", "narrow"}
    passed = watched.prometheus.ask("query", query="job_app_reason:gateway_hooks_allowed_by_fallback:increase5m > 0")[
        "result"
    ]
    assert {series["metric"]["app"] for series in passed} == {"close_without_a_byte", "diverted"}
