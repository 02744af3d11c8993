"""Tracing."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

import pytest

from gateway.config import ConfigError, loads

REJECTED = [
    ("tracing:\n", "1:1: tracing: must be a mapping"),
    ("tracing: {endpoint: 4318}\n", "1:11: tracing.endpoint: must be text such as http://127.0.0.1:4318, not 4318"),
    ("tracing: {endpoint: 'collector:4318'}\n", "1:11: tracing.endpoint: must be a URL that begins with http:// or https:// and names a host"),
    ("tracing: {endpoint: 'http://u:p@collector:4318'}\n", "1:11: tracing.endpoint: must not contain a user name or password: write Authorization under headers"),
    ("tracing: {endpoint: 'http://collector:4318/v1/traces/'}\n", "1:11: tracing.endpoint: must not end with /v1/traces: the gateway appends that"),
    ("tracing: {endpoint: 'http://c', sample: 1.5}\n", "1:33: tracing.sample: must be a number from 0 to 1, not 1.5"),
    ("tracing: {endpoint: 'http://c', sample: true}\n", "1:33: tracing.sample: must be a number from 0 to 1, not true"),
    ("tracing: {endpoint: 'http://c', sample: '1'}\n", '1:33: tracing.sample: must be a number from 0 to 1, not "1"'),
    ("tracing: {endpoint: 'http://c', sample: .nan}\n", "1:33: tracing.sample: must be a number from 0 to 1, not .nan"),
    ("tracing: {endpoint: 'http://c', service_name: ''}\n", '1:33: tracing.service_name: must be a name: 1 to 256 characters, no control characters, not ""'),
    ("tracing: {endpoint: 'http://c', headers: {host: x}}\n", "1:43: tracing.headers.host: must not be set here: the gateway sets or removes this header itself"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]
