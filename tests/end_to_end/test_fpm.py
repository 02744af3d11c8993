"""A full pool of PHP-FPM, which simply waits: the gateway answers in time, others do not notice, and it comes back."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.support.faulty import FaultyBackend
from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.programs import Backend, apache_php_fpm

pytestmark = pytest.mark.real

POOL: Final = 2
HOOKS: Final = 6
SLOW: Final = "SLOW1"
BUDGET: Final = 0.5
SPARE: Final = 2.0
"""Seconds by which a busy machine may make an answer late: a hook that waited for the whole pool would take three."""


class Setting(NamedTuple):
    """PHP-FPM, a backend that is well, and the gateway before both."""

    gateway: RunningGateway
    fpm: Backend


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    with FaultyBackend() as well, apache_php_fpm(workers=POOL) as fpm:
        config = {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
            "defaults": {"timeout": f"{BUDGET * 1000:.0f}ms", "dedupe": "off"},
            "upstreams": {
                "unlimited": {"url": fpm.url, "breaker": "off"},
                "limited": {"url": fpm.url, "max_connections": POOL, "breaker": "off"},
                "guarded": {"url": fpm.url, "breaker": {"failures": 3, "window": "10s", "open_for": "1s"}},
                "well": {"url": well.url_of("ok")},
            },
            "apps": {
                **{name: {"upstream": name} for name in ("unlimited", "limited", "guarded")},
                "well": {"upstream": "well", "timeout": "14s"},
            },
        }
        with running_gateway(json.dumps(config), tmp_path) as gateway:
            yield Setting(gateway, fpm)


class Answered(NamedTuple):
    status: int
    seconds: float
    why: str
    """The Proxy-Status; empty where the backend decided."""


def send(gateway: RunningGateway, app: str, callee: str = "") -> Answered:
    body = json.dumps({"appKey": app, "callId": uuid.uuid4().hex, "callee": callee}).encode()
    began = time.monotonic()
    answer = gateway.hook(body=body)
    return Answered(answer.status_code, time.monotonic() - began, answer.headers.get("proxy-status", ""))


def is_back(setting: Setting, app: str) -> bool:
    """Whether PHP has worked off what it was sent, and the app's hooks are allowed again."""
    return bool(wait_until(lambda: send(setting.gateway, app).status == 200, 20))


@pytest.mark.parametrize("app", ["limited", "unlimited"])
def test_a_full_pool_costs_its_hooks_their_budget_and_no_more_and_other_apps_nothing(
    setting: Setting, app: str
) -> None:
    assert is_back(setting, app)
    with ThreadPoolExecutor(HOOKS) as pool:
        slow = [pool.submit(send, setting.gateway, app, SLOW) for _ in range(HOOKS)]
        beside = []
        while not all(hook.done() for hook in slow):
            beside.append(send(setting.gateway, "well"))
    answers = [hook.result() for hook in slow]
    assert {answer.status for answer in answers} == {403}
    assert all(answer.seconds < BUDGET + SPARE for answer in answers)
    assert any("http_response_timeout" in answer.why for answer in answers)
    assert {answer.status for answer in beside} == {200}
    assert is_back(setting, app)


def test_a_pool_that_is_never_sent_more_than_it_can_take_works_for_nobody_who_has_left(setting: Setting) -> None:
    assert is_back(setting, "limited")
    before = len(setting.fpm.hooks())
    with ThreadPoolExecutor(HOOKS) as pool:
        answers = list(pool.map(lambda _: send(setting.gateway, "limited", SLOW), range(HOOKS)))
    # Where one gives up just before the next does, that has its place for its last few milliseconds.
    seen = len(setting.fpm.hooks()) - before
    assert seen <= 2 * POOL
    assert {answer.status for answer in answers} == {403}
    errors = Counter(re.findall("error=([a-z_]+)", " ".join(answer.why for answer in answers)))
    assert errors.total() == HOOKS
    assert errors.keys() <= {"http_response_timeout", "connection_limit_reached"}
    assert seen <= errors["http_response_timeout"], "no hook without a place was sent"


def test_once_the_breaker_is_open_hooks_are_answered_without_asking_the_full_pool(setting: Setting) -> None:
    gateway = setting.gateway
    assert is_back(setting, "guarded")
    with ThreadPoolExecutor(HOOKS) as pool:
        list(pool.map(lambda _: send(gateway, "guarded", SLOW), range(HOOKS)))

    def is_ejected() -> bool:
        send(gateway, "guarded", SLOW)
        return gateway.metric("gateway_target_ejections_total", upstream="guarded") >= 1

    assert wait_until(is_ejected)
    before, began = len(setting.fpm.hooks()), time.monotonic()
    answers = [send(gateway, "guarded", SLOW) for _ in range(20)]
    elapsed = time.monotonic() - began
    asked = [answer for answer in answers if "http_response_timeout" in answer.why]
    assert {answer.status for answer in answers} == {403}
    assert len(asked) <= elapsed + 1  # the probes, of which each may be sent when open_for is over, a second
    assert len(setting.fpm.hooks()) - before <= HOOKS  # what was waiting at PHP already, and the probes
    assert is_back(setting, "guarded")
