"""What commands make of their usage and of the configuration: check, explain and schema."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Final

import httpx
import jsonschema
import pytest
import yaml

from gateway import __version__
from gateway.model.verdicts import Cause
from tests.cli.commands import CONFIG, HOOK, explained, gateway, shell
from tests.support.gateways import ROOT

# --- usage ---


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["nonsense"],
        ["--nonsense"],
        ["check", "--nonsense"],
        ["check", "surplus"],
        ["check", "-c"],
        ["explain"],
        ["send"],
        ["send", "-", "--timeout", "soon"],
        ["run", "surplus"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_told_on_standard_error_with_exit_status_2(args: list[str]) -> None:
    run = gateway(*args)
    assert run.status == 2
    assert run.out == ""
    assert re.search("^(Usage|Error): ", run.err, re.MULTILINE)


@pytest.mark.parametrize("args", [[], ["run"], ["check"], ["explain"], ["send"], ["demo"], ["schema"], ["version"]])
def test_every_command_explains_itself(args: list[str]) -> None:
    run = gateway(*args, "--help")
    assert (run.status, run.err) == (0, "")
    assert "Usage: gateway" in run.out


def test_the_commands_of_the_contract_are_there() -> None:
    listed = gateway("--help").out
    for command in ("run", "check", "explain", "send", "demo", "schema", "version"):
        assert re.search(rf"^ +{command} ", listed, re.MULTILINE)


def test_version_tells_the_gateway_s_python_s_and_the_key_dependencies() -> None:
    run = gateway("version")
    assert run.status == 0
    names = dict(line.split(" ", 1) for line in run.out.splitlines())
    assert names["wcs-gateway"] == __version__
    assert names["Python"] == ".".join(map(str, sys.version_info[:3]))
    assert names["httpx"] == httpx.__version__


# --- check ---

BROKEN: Final = {
    "nothing": "",
    "not YAML": "apps: {a: [}\n",
    "not a mapping": "- a\n- b\n",
    "an unknown key": CONFIG + "sever: {}\n",
    "a duplicate key": CONFIG + "unknown_app: reject\nunknown_app: reject\n",
    "a wrong type": CONFIG + "server: {max_body: 65536}\n",
    "a budget too long": CONFIG.replace("2s", "20s"),
    "an upstream that is not there": CONFIG.replace("upstream: other", "upstream: nowhere"),
    "no UTF-8": "apps: {\udcff: 1}\n",
    "a secret that is not there": CONFIG + "admin: {token: '${env:NO_SUCH_VARIABLE_HERE}'}\n",
    "a NUL": "log: {}\n\0\n",
    "a bomb of aliases": "a: &a [x, x]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(24)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_told_by_file_line_and_column_with_exit_status_2(what: str, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_bytes(BROKEN[what].encode("utf-8", "surrogateescape"))
    run = gateway("check", "-c", path)
    assert (run.status, run.out) == (2, "")
    assert run.err
    for line in run.err.splitlines():
        assert re.match(re.escape(str(path)) + r":\d+:\d+: \S", line), line
        assert line.isprintable()


def test_all_problems_are_told_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("log: {level: loud}\nsever: {}\napps:\n  a:\n    upstream: nowhere\n    timeout: 3\n")
    lines = gateway("check", "-c", path).err.splitlines()
    assert [line.removeprefix(f"{path}:").split(": ")[:2] for line in lines] == [
        ["1:7", "log.level"],
        ["2:1", "sever"],
        ["5:5", "apps.a.upstream"],
        ["6:5", "apps.a.timeout"],
    ]


@pytest.mark.parametrize("command", ["check", "run", "demo"])
def test_every_command_refuses_a_broken_file_alike(command: str, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("sever: {}\n")
    run = gateway(command, "-c", path)
    assert (run.status, run.out) == (2, "")
    assert run.err == f'{path}:1:1: sever: unknown key; did you mean "server"?\n'


@pytest.mark.parametrize("command", [["check"], ["explain", "-"], ["run"]])
def test_a_file_that_cannot_be_read_is_told_like_any_other_problem(command: list[str], tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        run = gateway(*command, "-c", path, stdin=HOOK)
        assert (run.status, run.out) == (2, "")
        assert run.err.startswith(f"{path}:1:1: cannot be read: ")


def test_the_default_file_is_gateway_yaml_in_the_working_directory(config: Path) -> None:
    run = shell("gateway check", config.parent)
    assert run.status == 0
    assert run.out.startswith("gateway.yaml: valid\n")


def table_of(out: str) -> list[list[str]]:
    table, _, _ = out.partition("\n\n")
    return [re.split(r" {2,}", line.strip()) for line in table.splitlines()[1:] if line.strip()]


def test_a_valid_file_is_answered_with_upstream_budget_and_verdicts_per_app_and_method(config: Path) -> None:
    run = gateway("check", "-c", config)
    assert run.status == 0
    assert "StreamKeepAliveEvent" in run.err
    assert run.err.count("(warning)") == 1
    assert run.out.splitlines()[0] == f"{config}: valid"
    assert [[cell for cell in row if cell] for row in table_of(run.out)] == [
        ["app", "method", "upstream", "budget", *Cause],
        ["defaultApp", "(any)", "legacy-php", "2s", "allow", "allow", "reject", "reject", "reject"],
        ["defaultApp", "OnCallEvent", "legacy-php", "1.5s", "reject", "reject", "reject", "reject", "reject"],
        ["tenant-*", "(any)", "other", "3s", "reject", "reject", "reject", "reject", "reject"],
        ["blocked", "(any)", "none: always reject"],
        ["open", "(any)", "none: always allow"],
        ["(any other)", "(any)", "none: 403"],
    ]


def test_the_app_that_serves_unknown_ones_is_named(config: Path) -> None:
    config.write_text(CONFIG + "unknown_app: open\n")
    assert table_of(gateway("check", "-c", config).out)[-1] == ["(any other)", "(any)", "as open"]


@pytest.mark.parametrize(
    "name", ["[/a]", "[red]x", "[bold", "x" * 200, "ünï 漢字", "[link=http://x]y[/link]", ":smile:"]
)
def test_an_app_s_name_is_printed_as_it_is(name: str, config: Path) -> None:
    config.write_text(yaml.safe_dump({"apps": {name: {"static": "reject"}}}, allow_unicode=True))
    run = gateway("check", "-c", config)
    assert run.status == 0
    assert table_of(run.out)[1] == [name, "(any)", "none: always reject"]


def test_warnings_are_told_on_standard_error_and_change_nothing(config: Path) -> None:
    config.write_text("apps: {}\n")
    run = gateway("check", "-c", config)
    assert run.status == 0
    assert re.fullmatch(re.escape(str(config)) + r":\d+:\d+: apps: .* \(warning\)\n", run.err)


def test_the_repository_s_own_configuration_is_valid() -> None:
    run = gateway("check", "-c", ROOT / "gateway.yaml")
    assert (run.status, run.err) == (0, "")


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
    assert "rule      the only one does not meet it at " in event
    assert "; 1 with a verdict and without methods: events pass by these\n" in event
    assert "budget    1s (defaults.methods.event.timeout)\n" in event
    assert '(apps.defaultApp.methods."*StatusEvent".dedupe)\n' in event
    assert "answers   any 2xx: it is delivered, unless PHP reports a fatal error (the default)\n" in event
    assert "set by apps.defaultApp.fallback\n" in event
    assert "verdict   allow: by that rule" in run("OnCallEvent")
    config.write_text(BY_METHOD.replace('callee: "110"', "callee: other"))
    stream = run("StreamKeepAliveEvent")
    assert "method    StreamKeepAliveEvent (direct)\n" in stream
    assert "set by defaults.methods.StreamKeepAliveEvent.fallback\n" in stream
    assert "a 403     the stream is stopped only if the session's connect answer set restOnError=FAIL for it" in stream
    viewer = run("playHLS")
    assert "a 403     the viewer gets no stream, with any restOnError: playHLS comes without a connect\n" in viewer


def test_an_event_is_explained_as_one_that_cannot_be_refused(config: Path, hook_file: Path) -> None:
    assert "cannot be refused" in gateway("explain", hook_file, "-m", "CallStatusEvent", "-c", config).out


@pytest.mark.parametrize(
    ("app_key", "app"),
    [
        ("tenant-7", "tenant-* ('tenant-*' is the longest glob that matches)"),
        ("stranger", "none is configured for it: 403, reason unknown_app"),
    ],
)
def test_a_hook_from_standard_input_is_explained(app_key: str, app: str, config: Path) -> None:
    run = gateway("explain", "-", "-c", config, stdin=json.dumps({"appKey": app_key}).encode())
    assert explained(run)["app"] == app


@pytest.mark.parametrize(("app_key", "verdict"), [("blocked", "reject"), ("open", "allow")])
def test_a_static_app_is_explained_as_one_without_a_backend(app_key: str, verdict: str, config: Path) -> None:
    told = explained(gateway("explain", "-", "-c", config, stdin=json.dumps({"appKey": app_key}).encode()))
    assert told["verdict"] == f"always {verdict}: the app is static, no backend is asked"
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


# --- schema ---


class Yaml12(yaml.SafeLoader):
    """As editors and the gateway read YAML: on, off, yes and no are words."""


Yaml12.yaml_implicit_resolvers = {
    char: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for char, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Yaml12.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|false"), list("tf"))


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    run = gateway("schema")
    assert (run.status, run.err) == (0, "")
    read: dict[str, Any] = json.loads(run.out)
    return read


def test_the_schema_is_one_of_json_schema_2020_12(schema: dict[str, Any]) -> None:
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("text", [CONFIG, (ROOT / "gateway.yaml").read_text("utf-8")])
def test_the_schema_takes_what_the_gateway_takes(schema: dict[str, Any], text: str) -> None:
    jsonschema.Draft202012Validator(schema).validate(yaml.load(text, Yaml12))


@pytest.mark.parametrize("text", ["sever: {}", "server: {max_body: 5}", "apps: {a: {timeout: 3}}", "apps: []"])
def test_the_schema_refuses_what_the_gateway_refuses(schema: dict[str, Any], text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(yaml.load(text, Yaml12))
