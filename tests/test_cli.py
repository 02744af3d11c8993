"""The command line as a user meets it: what it prints, where, and with which exit status."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import jsonschema
import pytest
import yaml
from gateways import ROOT, wait_until
from typer.testing import CliRunner

from gateway import __version__
from gateway.cli.main import app
from gateway.verdicts import Cause

PATIENCE: Final = 30.0

HOOK: Final = b'{"appKey": "defaultApp", "callee": "PPP005"}'

CONFIG: Final = """\
upstreams:
  legacy-php: {url: http://127.0.0.1:8081/rest/my_api}
  other: {url: http://127.0.0.1:8082}
apps:
  defaultApp:
    upstream: legacy-php
    timeout: 2s
    fallback: {timeout: allow, unreachable: allow}
    methods:
      OnCallEvent: {timeout: 1500ms, fallback: reject}
  "tenant-*": {upstream: other}
  blocked: {static: reject}
  open: {static: allow}
"""


class Run:
    """What a command left behind."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err
        assert "Traceback" not in err
        assert "Exception ignored" not in err

    def __repr__(self) -> str:
        return f"<exit {self.status}\n{self.out}\n{self.err}>"


def gateway(*args: str | Path, stdin: bytes = b"") -> Run:
    """The command, in this process."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], input=stdin, prog_name="gateway")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Run(result.exit_code, result.stdout, result.stderr)


def shell(command: str, directory: Path, **environment: str) -> Run:
    """The command, in a shell of its own; ``gateway`` in it is ours."""
    whole = command.replace("gateway ", f"{sys.executable} -m gateway ")
    done = subprocess.run(
        ["bash", "-c", whole],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return Run(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def hook_file(tmp_path: Path) -> Path:
    path = tmp_path / "hook.json"
    path.write_bytes(HOOK)
    return path


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
    assert (run.status, run.err) == (0, "")
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


# --- explain ---


def explained(run: Run) -> dict[str, str]:
    """The first word of each line and the rest of it."""
    assert (run.status, run.err) == (0, "")
    return dict(re.split(r" +", line, maxsplit=1) for line in run.out.splitlines() if not line.startswith(" "))


def test_an_exact_app_is_explained_with_upstream_budget_and_policy(config: Path, hook_file: Path) -> None:
    run = gateway("explain", hook_file, "--method", "connect", "-c", config)
    told = explained(run)
    assert told["method"] == "connect (connect)"
    assert told["appKey"] == "'defaultApp'"
    assert told["app"] == "defaultApp (an app of exactly this name is configured)"
    assert told["upstream"] == "legacy-php (http://127.0.0.1:8081/rest/my_api)"
    assert told["budget"].startswith("2s")
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


def test_terminal_sequences_in_an_app_key_are_not_played(config: Path) -> None:
    run = gateway("explain", "-", "-c", config, stdin=json.dumps({"appKey": "\x1b[2J\nx"}).encode())
    assert "\x1b" not in run.out


# --- send ---


class Backend(BaseHTTPRequestHandler):
    """Answers a hook by its method's name."""

    answers: Final[dict[str, tuple[int, dict[str, str], bytes]]] = {
        "allow": (200, {"X-Request-Id": "id-1"}, b"{}"),
        "reject": (403, {}, b""),
        "gave_up": (403, {"Proxy-Status": "gateway; error=http_protocol_error; received-status=500"}, b""),
        "passed": (200, {"Proxy-Status": "gateway; error=http_response_timeout"}, b"{}"),
        "problem": (
            400,
            {"Content-Type": "application/problem+json", "Proxy-Status": "gateway; error=http_request_error"},
            b'{"detail": "appKey is empty", "status": 400}',
        ),
        "strange": (500, {}, b"<h1>It broke</h1>"),
        "no_problem": (400, {"Content-Type": "application/problem+json"}, b"not JSON"),
        "list_problem": (400, {"Content-Type": "application/problem+json"}, b"[]"),
        "redirect": (302, {"Location": "/allow"}, b""),
        "sequences": (403, {"Proxy-Status": "gateway; error=\x1b[2J", "X-Request-Id": "\x1b[2J"}, b""),
        "not_gzip": (200, {"Content-Encoding": "gzip"}, b"plain"),
    }
    received: list[tuple[str, dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        method = self.path.rpartition("/")[2]
        server: Any = self.server
        server.received.append((self.path, dict(self.headers.items()), body))
        if method == "hangs":
            server.released.wait(PATIENCE)
        if method in ("closes", "hangs"):
            self.close_connection = True
            return
        status, headers, answer = self.answers[method]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(answer)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


class Server(HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Backend)
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/rest/my_api"


@pytest.fixture(scope="module")
def backend() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("method", "verdict", "status", "reason"),
    [
        ("allow", "allow", "200 OK", "the backend's own decision"),
        ("reject", "reject", "403 Forbidden", "the backend's own decision"),
        ("gave_up", "reject", "403 Forbidden", "http_protocol_error, the backend answered 500"),
        ("passed", "allow", "200 OK", "http_response_timeout"),
        ("problem", "error", "400 Bad Request", "appKey is empty"),
        ("strange", "error", "500 Internal Server Error", ""),
        ("no_problem", "error", "400 Bad Request", ""),
        ("list_problem", "error", "400 Bad Request", ""),
        ("redirect", "error", "302 Found", ""),
        ("sequences", "reject", "403 Forbidden", ""),
    ],
)
def test_send_prints_verdict_status_reason_and_time(
    method: str, verdict: str, status: str, reason: str, backend: Server, hook_file: Path
) -> None:
    run = gateway("send", hook_file, "--method", method, "--url", backend.url)
    told = explained(run)
    assert told["verdict"].split()[0] == verdict
    assert told["status"] == status
    assert reason in told["reason"]
    assert re.fullmatch(r"\d+\.\d ms", told["time"])
    assert run.out.replace("\n", "").isprintable()


def test_what_no_gateway_answered_is_not_called_the_backend_s_decision(backend: Server, hook_file: Path) -> None:
    told = explained(gateway("send", hook_file, "--method", "strange", "--url", backend.url))
    assert "decision" not in told["reason"]


def test_send_fires_the_file_byte_for_byte_as_the_media_server_does(backend: Server, tmp_path: Path) -> None:
    body = b'\r\n{"appKey" :"a",   "appKey": "b"}\n\xff'
    (tmp_path / "hook").write_bytes(body)
    assert gateway("send", tmp_path / "hook", "-m", "allow", "-u", backend.url + "/").status == 0
    path, headers, received = backend.received[-1]
    assert (path, received) == ("/rest/my_api/allow", body)
    assert headers["Content-Type"] == "application/json;charset=UTF-8"
    assert headers["Accept"] == "application/json"
    assert "Transfer-Encoding" not in headers


def test_send_reads_standard_input(backend: Server) -> None:
    assert gateway("send", "-", "-m", "allow", "-u", backend.url, stdin=HOOK).status == 0
    assert backend.received[-1][2] == HOOK


def test_send_heeds_no_proxy_of_the_environment(
    backend: Server, hook_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert gateway("send", hook_file, "-m", "allow", "-u", backend.url).status == 0


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def test_a_gateway_that_cannot_be_reached_is_a_failure_at_run_time(hook_file: Path, closed_port: int) -> None:
    url = f"http://127.0.0.1:{closed_port}/x"
    run = gateway("send", hook_file, "-u", url)
    assert (run.status, run.out) == (1, "")
    assert run.err.startswith(f"gateway: {url}: ")


@pytest.mark.parametrize("method", ["closes", "not_gzip"])
def test_an_answer_that_is_none_is_a_failure_at_run_time(method: str, backend: Server, hook_file: Path) -> None:
    run = gateway("send", hook_file, "-m", method, "-u", backend.url)
    assert (run.status, run.out) == (1, "")
    assert len(run.err.splitlines()) == 1


def test_an_answer_that_does_not_come_is_a_failure_at_run_time(hook_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        run = gateway("send", hook_file, "-u", url, "--timeout", "0.1")
    assert (run.status, run.out) == (1, "")
    assert run.err == f"gateway: {url}: no answer within 0.1 s\n"


@pytest.mark.parametrize(
    "url", ["", "localhost:8080/x", "ftp://127.0.0.1/", "http://", "http://[::1", "http://xn--/", "http://h:99999/"]
)
def test_a_url_that_is_none_is_bad_usage(url: str, hook_file: Path) -> None:
    run = gateway("send", hook_file, "-u", url)
    assert (run.status, run.out) == (2, "")
    assert len(run.err.splitlines()) == 1


@pytest.mark.parametrize("timeout", ["-1", "nan", "0", "inf"])
def test_a_timeout_that_no_clock_knows_is_bad_usage(timeout: str, hook_file: Path, closed_port: int) -> None:
    run = gateway("send", hook_file, "-u", f"http://127.0.0.1:{closed_port}", "--timeout", timeout)
    assert (run.status, run.out) == (2, "")


@pytest.mark.parametrize("command", ["send", "explain"])
def test_a_hook_s_file_that_cannot_be_read_is_bad_usage(command: str, config: Path) -> None:
    options = ["-c", str(config)] if command == "explain" else []
    for path in (config.parent / "absent.json", config.parent):
        run = gateway(command, path, *options)
        assert (run.status, run.out) == (2, "")
        assert run.err.startswith(f"gateway: {path}: ")


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


# --- odd standard streams, in real processes ---


def test_a_reader_that_has_seen_enough_is_no_mistake(tmp_path: Path) -> None:
    run = shell("gateway schema | head -n 1", tmp_path)
    assert (run.status, run.out, run.err) == (0, "{\n", "")


REDIRECTED: Final = {
    "gone": "(trap '' PIPE; {}) | true; exit ${{PIPESTATUS[0]}}",
    "closed": "{} >&-",
    "full": "{} >/dev/full",
}


@pytest.mark.parametrize(
    ("stdout", "command"),
    [
        ("gone", "gateway schema"),
        ("closed", "gateway schema"),
        ("closed", "gateway check"),
        ("closed", "gateway explain hook.json"),
        ("full", "gateway schema"),
        ("full", "gateway check"),
        ("full", "gateway explain hook.json"),
    ],
)
@pytest.mark.usefixtures("hook_file")
def test_no_command_stumbles_over_its_standard_output(stdout: str, command: str, config: Path) -> None:
    run = shell(REDIRECTED[stdout].format(command), config.parent)  # Run itself refuses a traceback
    assert run.status in (0, 1)
    assert len(run.err.splitlines()) <= 1


@pytest.mark.parametrize("command", ["explain - -c gateway.yaml", "send - -u http://127.0.0.1:1"])
def test_a_closed_standard_input_is_told_as_bad_usage(command: str, config: Path) -> None:
    run = shell(f"gateway {command} <&-", config.parent)
    assert run.status == 2
    assert run.out == ""
    assert len(run.err.splitlines()) == 1


@pytest.mark.parametrize("redirected", [">&-", ">/dev/full"])
def test_a_gateway_serves_on_when_nobody_takes_its_log(redirected: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        hooks, admin = one.getsockname()[1], other.getsockname()[1]
    path = tmp_path / "gateway.yaml"
    path.write_text(
        f"server: {{listen: '127.0.0.1:{hooks}', admin: '127.0.0.1:{admin}'}}\napps: {{open: {{static: allow}}}}\n"
    )
    command = f"exec {sys.executable} -m gateway run -c {path} {redirected}"
    process = subprocess.Popen(["bash", "-c", command], cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        with httpx.Client(trust_env=False, timeout=10.0) as client:
            assert wait_until(lambda: is_ready(client, admin), PATIENCE)
            for _ in range(20):
                answer = client.post(f"http://127.0.0.1:{hooks}/connect", content=b'{"appKey": "open"}')
                assert (answer.status_code, answer.content) == (200, b'{"appKey": "open"}')
        process.terminate()
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert (process.returncode, err) == (0, b"")


def is_ready(client: httpx.Client, admin: int) -> bool:
    try:
        return client.get(f"http://127.0.0.1:{admin}/-/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("key", ["listen", "admin"])
def test_a_port_that_is_taken_is_a_failure_at_run_time_that_names_it(key: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        path = tmp_path / "gateway.yaml"
        ports = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", key: address}
        path.write_text(yaml.safe_dump({"server": ports, "apps": {"open": {"static": "allow"}}}))
        run = shell(f"gateway run -c {path}", tmp_path)
    assert (run.status, run.out) == (1, "")
    assert len(run.err.splitlines()) == 1
    assert run.err.startswith("gateway: ")
    assert address in run.err
    assert f"server.{key}" in run.err
