"""An app's hooks past its rate: answered at once with the verdict for overload, and nobody else's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.pacing import (
    Answered,
    PacedBackend,
    configuration,
    hook_body,
    serve,
    volley,
)

LIMITED = {"upstream": "u", "rate_limit": "1/h burst 3"}
"""In a test's time nothing is added to the burst."""


@pytest.fixture
def backend() -> Iterator[PacedBackend]:
    with PacedBackend() as running:
        yield running


def ask(gateway: RunningGateway, app: str = "a", times: int = 1) -> list[Answered]:
    return [volley(gateway, [hook_body(app)])[0] for _ in range(times)]


def statuses(gateway: RunningGateway, app: str = "a", times: int = 1) -> list[int]:
    return [answer.status for answer in ask(gateway, app, times)]


def put(gateway: RunningGateway, backend: PacedBackend, app: dict[str, Any], **sections: Any) -> None:
    serve(gateway, {"u": {"url": backend.url}}, {"a": app, **sections.pop("more", {})}, **sections)


def test_a_burst_passes_and_what_comes_after_it_meets_the_verdict_for_overload(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    put(gateway, backend, LIMITED)
    answers = ask(gateway, times=5)
    assert [answer.status for answer in answers] == [200, 200, 200, 403, 403]
    assert backend.count == 3
    assert answers[-1].body == b""
    assert answers[-1].proxy_error == "connection_limit_reached"
    line = gateway.access_line(answers[-1].headers["x-request-id"])
    assert (line["source"], line["reason"], line["app"]) == ("fallback", "overload", "a")
    assert "rate_limit" in line["error"]
    assert gateway.metric("gateway_rate_limited_total", app="a") == 2
    assert gateway.metric("gateway_hooks_total", app="a", reason="overload") == 2


def test_a_fallback_that_allows_lets_them_through_without_the_backend(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    put(gateway, backend, {**LIMITED, "fallback": {"overload": "allow"}})
    ask(gateway, times=3)
    body = hook_body("a")
    (answer,) = volley(gateway, [body])
    assert (answer.status, answer.body, backend.count) == (200, body, 3)
    assert gateway.metric("gateway_rate_limited_total", app="a") == 1


def test_hooks_pass_again_as_the_rate_brings_room(gateway: RunningGateway, backend: PacedBackend) -> None:
    put(gateway, backend, {**LIMITED, "rate_limit": "2/s burst 1"})
    answers = volley(gateway, [hook_body("a") for _ in range(10)])
    assert 1 <= sum(answer.status == 200 for answer in answers) < 10
    assert wait_until(lambda: statuses(gateway) == [200])


def test_each_app_has_a_rate_of_its_own_and_others_none(gateway: RunningGateway, backend: PacedBackend) -> None:
    put(gateway, backend, LIMITED, more={"b": LIMITED, "c": {"upstream": "u"}})
    assert statuses(gateway, "a", 4) == [200, 200, 200, 403]
    assert statuses(gateway, "b", 4) == [200, 200, 200, 403]
    assert statuses(gateway, "c", 8) == [200] * 8
    assert gateway.metric("gateway_rate_limited_total") == 2


def test_all_app_keys_of_a_glob_and_all_methods_share_one_rate(gateway: RunningGateway, backend: PacedBackend) -> None:
    shared = {**LIMITED, "methods": {"connect": {"timeout": "3s"}}}
    put(gateway, backend, {"static": "reject"}, more={"tenant-*": shared})
    got = [volley(gateway, [hook_body(f"tenant-{i}")], ("connect", "call")[i % 2])[0].status for i in range(5)]
    assert got == [200, 200, 200, 403, 403]


def test_a_rate_in_defaults_is_every_app_s_unless_it_is_off_there(
    gateway: RunningGateway, backend: PacedBackend
) -> None:
    off = {"upstream": "u", "rate_limit": "off"}
    put(gateway, backend, {"upstream": "u"}, more={"b": off}, defaults={"dedupe": "off", "rate_limit": "1/h burst 2"})
    assert statuses(gateway, "a", 4) == [200, 200, 403, 403]
    assert statuses(gateway, "b", 4) == [200] * 4


def test_a_reload_is_no_way_round_the_limit(gateway: RunningGateway, backend: PacedBackend) -> None:
    put(gateway, backend, LIMITED)
    assert statuses(gateway, times=3) == [200] * 3
    put(gateway, backend, {**LIMITED, "timeout": "9s"})
    assert statuses(gateway) == [403]
    put(gateway, backend, {**LIMITED, "rate_limit": "1/h burst 5"})
    assert statuses(gateway, times=4) == [200, 200, 403, 403]
    put(gateway, backend, {**LIMITED, "rate_limit": "off"})
    assert statuses(gateway, times=6) == [200] * 6


def test_the_same_hook_come_again_takes_nothing_of_the_rate(gateway: RunningGateway, backend: PacedBackend) -> None:
    put(gateway, backend, LIMITED, defaults={})
    body = hook_body("a")
    assert [volley(gateway, [body])[0].status for _ in range(6)] == [200] * 6
    assert backend.count == 1
    assert statuses(gateway, times=3) == [200, 200, 403]


def test_what_a_rule_decides_takes_nothing_of_the_rate(gateway: RunningGateway, backend: PacedBackend) -> None:
    rules = [{"caller": "spam", "verdict": "reject"}, {"caller": "vip", "verdict": "allow"}]
    put(gateway, backend, {**LIMITED, "rules": rules})
    for caller, status in (("spam", 403), ("vip", 200)):
        got = volley(gateway, [hook_body("a", caller=caller) for _ in range(5)])
        assert {answer.status for answer in got} == {status}
    assert statuses(gateway, times=4) == [200, 200, 200, 403]
    assert volley(gateway, [hook_body("a", caller="vip")])[0].status == 200


def test_two_workers_share_one_app_s_rate(backend: PacedBackend, tmp_path: Path) -> None:
    app = {**LIMITED, "rate_limit": "1/h burst 8"}
    text = configuration({"u": {"url": backend.url}}, {"a": app}, server={"workers": 2})
    with running_gateway(text, tmp_path) as gateway:
        refused = 0

        def flood() -> list[int]:
            nonlocal refused
            found = [answer.status for answer in volley(gateway, [hook_body("a") for _ in range(24)])]
            refused += found.count(403)
            return found

        passed = flood().count(200)
        assert 4 <= passed <= 8, "each worker has half of the burst"
        assert wait_until(lambda: flood() and backend.count >= 8)
        assert set(flood()) == {403}
        assert backend.count == 8
        # A hook is counted once its answer is out.
        assert wait_until(lambda: gateway.metric("gateway_hooks_total", app="a", source="backend") == 8)
        assert wait_until(lambda: gateway.metric("gateway_hooks_total", app="a", reason="overload") == refused)
        assert wait_until(lambda: gateway.metric("gateway_rate_limited_total", app="a") == refused)


def test_adversarial_flood_of_one_app_costs_another_nothing(gateway: RunningGateway, backend: PacedBackend) -> None:
    put(gateway, backend, LIMITED, more={"b": {"upstream": "u"}})
    flood = [hook_body("a") for _ in range(200)]
    others = [hook_body("b") for _ in range(20)]
    answers = volley(gateway, flood + others)
    assert Counter(answer.status for answer in answers[:200]) == {200: 3, 403: 197}
    assert {answer.status for answer in answers[200:]} == {200}
    assert backend.count == 23
