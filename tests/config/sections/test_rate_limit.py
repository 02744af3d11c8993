"""The rate limit of an app."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

import pytest

from gateway.config import ConfigError, Settings, loads
from gateway.policy.rate_limit import Rate
from tests.config.texts import of_u

THREE_UPSTREAMS = "upstreams: {u: {url: http://h}, v: {url: http://i}, w: {url: http://j}}\n"


def settings(text: str, method: str | None = None, app: str = "a") -> Settings:
    return loads(THREE_UPSTREAMS + text).config.settings(app, method)


REJECTED = [
    (of_u("rate_limit: 50"), "2:25: apps.a.rate_limit: must be a rate such as 50/s, 300/m, or 50/s burst 100, or off, not 50"),
    (of_u("rate_limit: 50/d"), '2:25: apps.a.rate_limit: must be a rate such as 50/s, 300/m, or 50/s burst 100, or off, not "50/d"'),
    (of_u("rate_limit: 0/s"), '2:25: apps.a.rate_limit: must be more than 0 and at most 1000000/s, not "0/s"'),
    (of_u("rate_limit: 9999999/s"), '2:25: apps.a.rate_limit: must be more than 0 and at most 1000000/s, not "9999999/s"'),
    (of_u("rate_limit: 5/s burst 0"), '2:25: apps.a.rate_limit: must have a burst from 1 to 10000000, not "5/s burst 0"'),
    (of_u("rate_limit: 5/s burst"), '2:25: apps.a.rate_limit: must be a rate such as 50/s, 300/m, or 50/s burst 100, or off, not "5/s burst"'),
    (of_u("rate_limit: "), "2:25: apps.a.rate_limit: must be a rate such as 50/s, 300/m, or 50/s burst 100, or off, not empty"),
    (of_u("rate_limit: -1/s"), '2:25: apps.a.rate_limit: must be a rate such as 50/s, 300/m, or 50/s burst 100, or off, not "-1/s"'),
    ("defaults: {rate_limit: fast}\n", '1:12: defaults.rate_limit: must be a rate such as 50/s, 300/m, or 50/s burst 100, or off, not "fast"'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


@pytest.mark.parametrize(
    ("app", "rate"),
    [("", Rate(5.0, 5)), ("rate_limit: 50/s burst 100", Rate(50.0, 100)), ("rate_limit: off", None)],
)
def test_the_app_s_rate_wins_and_off_is_one(app: str, rate: Rate | None) -> None:
    text = f"defaults: {{upstream: u, rate_limit: 300/m}}\napps: {{a: {{{app}}}}}"
    assert settings(text).rate_limit == settings(text, "OnCallEvent").rate_limit == rate
