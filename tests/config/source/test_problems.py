"""Problems: all at once, in order, and bounded."""

from __future__ import annotations

import pytest

from gateway.config import ConfigError, loads


def test_all_problems_come_at_once_in_the_order_of_the_file() -> None:
    text = (
        "server: {lisen: x}\n"
        "server: {}\n"
        "log: {level: '${env:NO_SUCH_VARIABLE}'}\n"
        "upstreams: {u: {url: http://h, keepalive: 5}}\n"
        "apps: {b: {upstream: v, timeout: 20s}, c: {timeout: 3}}\n"
        "unknown_app: d\n"
    )
    with pytest.raises(ConfigError) as caught:
        loads(text, "g.yaml")
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [
        (1, "server.lisen"),
        (2, "server"),
        (3, "log.level"),
        (4, "upstreams.u.keepalive"),
        (5, "apps.b.upstream"),
        (5, "apps.b.timeout"),
        (5, "apps.c"),
        (5, "apps.c.timeout"),
        (6, "unknown_app"),
    ]
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
    assert {problem.file for problem in caught.value.problems} == {"g.yaml"}


def test_the_list_of_problems_is_bounded_and_says_so() -> None:
    text = "".join(f"key{number}: 1\n" for number in range(3000))
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert len(caught.value.problems) == 1001
    assert caught.value.problems[-1].message == "more than 1000 problems: the rest is not listed"


def test_values_that_are_nearly_all_wrong_are_counted_instead_of_listed() -> None:
    text = "apps: {" + ",".join(f"a{number}" for number in range(100_001)) + "}"
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [problem.message for problem in caught.value.problems] == [
        "100,001 values are wrong, too many to list: this is probably not a configuration of the gateway"
    ]
