"""The command line as a whole: usage and help."""

from __future__ import annotations

import re
from typing import Final

import pytest

from tests.cli.commands import gateway

COMMANDS: Final = (
    "run", "check", "explain", "send", "replay", "demo", "status", "decisions", "top", "schema", "version",
)  # fmt: skip


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


@pytest.mark.parametrize("args", [[], *([command] for command in COMMANDS)], ids=" ".join)
def test_every_command_explains_itself(args: list[str]) -> None:
    run = gateway(*args, "--help")
    assert (run.status, run.err) == (0, "")
    assert "Usage: gateway" in run.out


def test_the_commands_of_the_contract_are_there() -> None:
    listed = gateway("--help").out
    for command in COMMANDS:
        assert re.search(rf"^ +{command} ", listed, re.MULTILINE)
