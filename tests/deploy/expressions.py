"""Every PromQL expression that we give to operators, where it stands, and a real Prometheus to ask them of."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import yaml

from tests.support.gateways import ROOT, wait_until
from tests.support.programs import free_port, require

PROMETHEUS: Final = ROOT / "deploy" / "prometheus"
DASHBOARD: Final = ROOT / "deploy" / "grafana" / "wcs-gateway.json"
BUILT_IN: Final = {"__rate_interval": "30s", "__range": "2m"}
"""Grafana's own variables, and what they are here."""
_START: Final = 20.0
_SELECTOR: Final = re.compile(r"(?<![\w:.\"])((?:gateway|process|job|ALERTS|up)(?:[_:][\w:]*)?)\b(?!\s*\()(\{[^}]*\})?")
_LABELS: Final = re.compile(r"\b(?:by|on|without|group_left|group_right)\s*\([^)]*\)")


class Expression(NamedTuple):
    """An expression and where it stands."""

    place: str
    text: str

    @property
    def selectors(self) -> list[str]:
        """The series that it is made of, each as an expression of its own."""
        return [name + (labels or "") for name, labels in _SELECTOR.findall(_LABELS.sub(" ", self.text))]


@functools.cache
def rules(file: str) -> list[dict[str, Any]]:
    """The rules of a file, of all its groups."""
    groups = yaml.safe_load((PROMETHEUS / file).read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def recorded() -> list[Expression]:
    """What is recorded, by the name that it is recorded under."""
    return [Expression(rule["record"], rule["expr"]) for rule in rules("rules.yml")]


def alerts() -> list[Expression]:
    """What alerts ask."""
    return [Expression(rule["alert"], rule["expr"]) for rule in rules("alerts.yml")]


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    found: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
    return found


def shown() -> list[Expression]:
    """What the dashboard's panels and annotations ask, with *All* chosen in every variable."""
    board = dashboard()
    panels = [
        Expression(f"{panel['id']} {panel['title']} {target['refId']}", filled_in(target["expr"]))
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]
    marks = [
        Expression(f"annotation {mark['name']}", filled_in(mark["expr"]))
        for mark in board["annotations"]["list"]
        if "expr" in mark
    ]
    return panels + marks


def filled_in(text: str) -> str:
    """The expression that Grafana sends to Prometheus."""
    return re.sub(r"\$(\w+)", lambda found: BUILT_IN.get(found[1], ".*"), text)


class Prometheus:
    """A Prometheus that runs."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20.0)

    def close(self) -> None:
        self._client.close()

    def is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, path: str, **parameters: Any) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, expression: str) -> list[float]:
        """What an expression is just now, series by series, those that are no number left out."""
        result = self.ask("query", query=expression)["result"]
        return [value for series in result if not math.isnan(value := float(series["value"][1]))]

    def has(self, expression: str) -> bool:
        return bool(self.values(expression))

    def alerts(self) -> dict[str, dict[str, Any]]:
        """What is pending or fires, one of each name."""
        return {alert["labels"]["alertname"]: alert for alert in self.ask("alerts")["alerts"]}


@contextlib.contextmanager
def prometheus(gateways: list[str], directory: Path) -> Iterator[Prometheus]:
    """Prometheus with the files that we give to operators; it scrapes these admin ports, and all of it each second."""
    program = require("prometheus", "prometheus")
    text = (PROMETHEUS / "prometheus.yml").read_text("utf-8")
    for old in ("scrape_interval: 15s", "evaluation_interval: 15s"):
        assert text.count(old) == 1
        text = text.replace(old, old.replace("15s", "1s"))
    text = text.replace("scrape_timeout: 10s", "scrape_timeout: 1s")
    (directory / "prometheus.yml").write_text(text)
    (directory / "targets.yml").write_text(yaml.safe_dump([{"targets": gateways}]))
    for file in ("rules.yml", "alerts.yml"):
        (directory / file).write_text((PROMETHEUS / file).read_text("utf-8"))
    port = free_port()
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    running = Prometheus(port)
    try:
        ready = wait_until(lambda: process.poll() is not None or running.is_ready(), _START)
        assert ready, (directory / "log").read_text()
        assert process.poll() is None, (directory / "log").read_text()
        yield running
    finally:
        running.close()
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
