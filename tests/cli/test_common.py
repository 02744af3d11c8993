"""What the commands share: which URLs can be used, and how a hook's file is read."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path

import httpx
import pytest
import typer

from gateway.cli import common
from gateway.cli.common import BAD_USAGE, FAILED, fail, is_usable, load_or_fail, read_hook_file


@pytest.mark.parametrize(
    ("url", "usable"),
    [
        ("http://127.0.0.1:8080/rest", True), ("https://php.example/x", True), ("http://[::1]:80/", True),
        ("http://xn--mnchen-3ya.example/", True), ("ftp://php.example/", False), ("http:///x", False),
        ("/only/a/path", False),
    ],
)  # fmt: skip
def test_a_usable_url_is_http_with_a_host(url: str, usable: bool) -> None:
    assert is_usable(httpx.URL(url)) is usable


@pytest.mark.parametrize("status", [FAILED, BAD_USAGE])
def test_an_error_is_one_line_on_standard_error_with_its_exit_status(
    status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        fail("it is broken", status)
    assert ended.value.exit_code == status
    assert capsys.readouterr() == ("", "gateway: it is broken\n")


def test_every_error_of_a_configuration_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("sever: {}\napps: {a: {upstream: nowhere}}\n")
    with pytest.raises(typer.Exit) as ended:
        load_or_fail(path)
    assert ended.value.exit_code == BAD_USAGE
    assert re.findall(r"gateway\.yaml:(\d)", capsys.readouterr().err) == ["1", "2"]


def test_a_hook_is_read_from_a_file_a_pipe_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "hook.json"
    file.write_bytes(b"{}")
    assert read_hook_file(str(file)) == b"{}"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"a":1}')))
    assert read_hook_file("-") == b'{"a":1}'


@pytest.mark.parametrize("kind", ["absent", "a directory", "too large", "a pipe without a writer"])
def test_a_file_that_is_no_hook_ends_with_wrong_usage(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(common, "_MAX_HOOK", 1 << 20)
    file = tmp_path / "hook.json"
    if kind == "a directory":
        file.mkdir()
    elif kind == "too large":
        file.write_bytes(b"x" * ((1 << 20) + 1))
    elif kind == "a pipe without a writer":
        os.mkfifo(file)
    with pytest.raises(typer.Exit) as ended:
        read_hook_file(str(file))
    assert ended.value.exit_code == BAD_USAGE
    assert capsys.readouterr().err.startswith(f"gateway: {file}: ")
