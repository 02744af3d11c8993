"""Files that a configuration is read from: what cannot be read is a problem."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.config import ConfigError, load


def problem_of(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path)
    (problem,) = caught.value.problems
    return str(problem).removeprefix(str(path))


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    missing = "not found (use -c FILE, or start from the gateway.yaml that comes with the gateway)"
    assert problem_of(tmp_path / "none.yaml") == f": {missing}"


def test_a_directory_is_a_problem(tmp_path: Path) -> None:
    assert problem_of(tmp_path) == ":1:1: cannot be read: it is a directory"


def test_a_pipe_is_a_problem_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert problem_of(tmp_path / "pipe") == ":1:1: cannot be read: it is not a regular file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "closed.yaml"
    path.write_text("log: {}")
    path.chmod(0)
    assert problem_of(path) == ":1:1: cannot be read: permission denied"


def test_a_file_that_is_not_utf8_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("a: é".encode("latin-1"))
    assert problem_of(path) == ":1:1: cannot be read: it is not UTF-8 (byte 3)"


def test_an_enormous_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    assert problem_of(path) == ":1:1: cannot be read: it is larger than 16 MiB"
