"""``gateway explain``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.commands import CONFIG, HOOK, explained, gateway


def test_an_exact_app_is_explained_with_upstream_budget_and_policy(config: Path, hook_file: Path) -> None:
    run = gateway("explain", hook_file, "--method", "connect", "-c", config)
    told = explained(run)
    assert told["method"] == "connect (connect)"
    assert told["appKey"] == "'defaultApp'"
    assert told["app"] == "defaultApp (an app of exactly this name is configured)"
    assert told["upstream"] == "legacy-php (http://127.0.0.1:8081/rest/my_api)"
    assert told["budget"] == "2s (apps.defaultApp.timeout)"
    assert told["retry"].endswith("(the default)")
    assert "set by apps.defaultApp.fallback\n" in run.out
    assert re.findall(r"(\w+): (allow|reject)$", run.out, re.MULTILINE) == [
        ("timeout", "allow"),
        ("unreachable", "allow"),
        ("overload", "reject"),
        ("bad_answer", "reject"),
        ("error_status", "reject"),
    ]
    assert "declined" in run.out


def test_without_a_method_an_incoming_call_is_explained_with_the_method_s_own_settings(
    config: Path, hook_file: Path
) -> None:
    run = gateway("explain", hook_file, "-c", config)
    told = explained(run)
    assert told["method"] == "OnCallEvent (incoming)"
    assert "apps.defaultApp.methods.OnCallEvent" in told["budget"]
    assert "allow" not in run.out
    assert "restOnError=FAIL" in run.out


BY_METHOD = """
upstreams: {u: {url: http://h}}
defaults:
  rules: [{callee: "110", verdict: allow}]
  methods: {StreamKeepAliveEvent: {fallback: {timeout: allow}}, event: {timeout: 1s}}
apps: {defaultApp: {upstream: u, fallback: reject, methods: {"*StatusEvent": {dedupe: 5s}}}}
"""


def test_each_value_is_explained_with_where_it_comes_from(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(BY_METHOD)

    def run(method: str) -> str:
        hook = b'{"appKey": "defaultApp", "callee": "110"}'
        return gateway("explain", "-", "-m", method, "-c", config, stdin=hook).out

    event = run("CallStatusEvent")
    assert "rule      the only rule does not match at " in event
    assert "; 1 with a verdict and without methods: not for events\n" in event
    assert "budget    1s (defaults.methods.event.timeout)\n" in event
    assert '(apps.defaultApp.methods."*StatusEvent".dedupe)\n' in event
    assert "answers   any 2xx means delivered, unless it contains a PHP fatal error (the default)\n" in event
    assert "set by apps.defaultApp.fallback\n" in event
    assert "verdict   allow: decided by this rule" in run("OnCallEvent")
    config.write_text(BY_METHOD.replace('callee: "110"', "callee: other"))
    stream = run("StreamKeepAliveEvent")
    assert "method    StreamKeepAliveEvent (direct)\n" in stream
    assert "set by defaults.methods.StreamKeepAliveEvent.fallback\n" in stream
    assert "on 403    the stream is stopped only if the session's connect answer set restOnError=FAIL for it" in stream
    viewer = run("playHLS")
    assert "on 403    the viewer gets no stream, despite any restOnError: playHLS comes without a connect\n" in viewer


def test_an_event_is_explained_as_one_that_cannot_be_refused(config: Path, hook_file: Path) -> None:
    assert "cannot be rejected" in gateway("explain", hook_file, "-m", "CallStatusEvent", "-c", config).out


@pytest.mark.parametrize(
    ("app_key", "app"),
    [
        ("tenant-7", "tenant-* ('tenant-*' is the longest glob that matches)"),
        ("stranger", "no app is configured for this appKey: 403, reason unknown_app"),
    ],
)
def test_a_hook_from_standard_input_is_explained(app_key: str, app: str, config: Path) -> None:
    run = gateway("explain", "-", "-c", config, stdin=json.dumps({"appKey": app_key}).encode())
    assert explained(run)["app"] == app


@pytest.mark.parametrize(("app_key", "verdict"), [("blocked", "reject"), ("open", "allow")])
def test_a_static_app_is_explained_as_one_without_a_backend(app_key: str, verdict: str, config: Path) -> None:
    told = explained(gateway("explain", "-", "-c", config, stdin=json.dumps({"appKey": app_key}).encode()))
    assert told["verdict"] == f"always {verdict}: the app is static, no backend is contacted"
    assert "upstream" not in told


def test_hook_types_of_the_configuration_are_known(config: Path) -> None:
    config.write_text(CONFIG + "hook_types: {Own: event}\n")
    assert explained(gateway("explain", "-", "-m", "Own", "-c", config, stdin=HOOK))["method"] == "Own (event)"


@pytest.mark.parametrize("body", [b"", b"not JSON", b"[]", b"{}", b'{"appKey": "a", "appKey": "b"}', b"\xff"])
def test_what_is_no_hook_is_explained_as_bad_usage(body: bytes, config: Path) -> None:
    run = gateway("explain", "-", "-c", config, stdin=body)
    assert (run.status, run.out) == (2, "")
    assert re.fullmatch(r"gateway: -: .+; the gateway would answer 400\n", run.err)


@pytest.mark.parametrize("method", ["", "a/b", "On\nCall", "%4fnCallEvent", "\udcff", "x" * 65])
def test_what_is_no_name_of_a_method_is_explained_as_bad_usage(method: str, config: Path) -> None:
    run = gateway("explain", "-", "--method", method, "-c", config, stdin=HOOK)
    assert (run.status, run.out) == (2, "")
    assert run.err.endswith("the gateway would answer 404\n")


def test_terminal_sequences_in_an_app_key_are_not_played(config: Path) -> None:
    run = gateway("explain", "-", "-c", config, stdin=json.dumps({"appKey": "\x1b[2J\nx"}).encode())
    assert "\x1b" not in run.out
