"""``gateway check``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
import yaml

from gateway.model.verdicts import Cause
from tests.cli.commands import CONFIG, HOOK, gateway, shell
from tests.support.gateways import ROOT

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
    absent = tmp_path / "absent.yaml"
    for path, problem in (
        (absent, f"{absent}: not found (use -c FILE, or "),
        (tmp_path, f"{tmp_path}:1:1: cannot be read: "),
    ):
        run = gateway(*command, "-c", path, stdin=HOOK)
        assert (run.status, run.out) == (2, "")
        assert run.err.startswith(problem)


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
