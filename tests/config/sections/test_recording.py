"""The recording's path and defaults."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.config import ConfigError, loads
from gateway.recording import RecordSettings
from tests.config.texts import of_u, warnings_of

THREE_UPSTREAMS = "upstreams: {u: {url: http://h}, v: {url: http://i}, w: {url: http://j}}\n"

REJECTED = [
    ("record: \n", "1:1: record: must be a mapping, not empty"),
    ("record: off\n", '1:1: record: must be a mapping, not "off"'),
    ("record: {path: ''}\n", "1:10: record.path: must be the path of a file: absolute, or from the directory of the configuration"),
    ("record: {path: 5}\n", "1:10: record.path: must be the path of a file: absolute, or from the directory of the configuration"),
    ("record: {path: /tmp/f, sample: 0}\n", "1:24: record.sample: must be a share such as 10% or 0.1, more than 0 and at most 1, not 0"),
    ("record: {path: /tmp/f, failures_only: yes}\n", '1:24: record.failures_only: must be true or false, not "yes"'),
    ("record: {path: /tmp/f, max_size: 1KiB}\n", '1:24: record.max_size: must be between 64KiB and 64GiB, not "1KiB"'),
    ("record: {path: /tmp/f, max_size: 5}\n", "1:24: record.max_size: must be a size such as 64KiB or 1MiB, not 5"),
    ("record: {path: /tmp/f, files: 0}\n", "1:24: record.files: must be a whole number from 1 to 1000, not 0"),
    ("record: {path: /tmp/f, mask: caller}\n", '1:24: record.mask: must be a list, not "caller"'),
    ("record: {path: /tmp/f, mask: ['']}\n", '1:31: record.mask[0]: must be the name of a field: 1 to 64 characters, such as caller, not ""'),
    ("record: {path: /tmp/f, mask: [" + "a, " * 65 + "]}\n", "1:24: record.mask: must hold at most 64 fields"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_record_that_cannot_be_written_by_whoever_checks_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    loaded = loads(of_u("timeout: 1s") + "record: {path: closed/f}\n", str(tmp_path / "gateway.yaml"))
    assert [(it.path, it.message) for it in warnings_of(loaded)] == [
        ("record.path", "cannot be written by this user: the gateway's own must be able to, or nothing is recorded")
    ]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("link", "is a symbolic link, and none is followed: nothing is recorded"),
        ("dangling", "is a symbolic link, and none is followed: nothing is recorded"),
        ("other", "exists, but is not a recording: it is left unchanged, and nothing is recorded"),
        ("recording", None),
        ("empty", None),
    ],
)
def test_a_record_in_a_place_where_nothing_would_be_written_is_a_warning(
    tmp_path: Path, kind: str, message: str | None
) -> None:
    path = tmp_path / "f"
    if kind in ("link", "dangling"):
        path.symlink_to("elsewhere")
        if kind == "link":
            (tmp_path / "elsewhere").touch()
    else:
        path.write_bytes({"other": b"apps: {}\n", "recording": b'{"v":1,"run":"0a1b2c3d"}\n', "empty": b""}[kind])
    loaded = loads(of_u("timeout: 1s") + "record: {path: f}\n", str(tmp_path / "gateway.yaml"))
    assert [it.message for it in warnings_of(loaded)] == ([message] if message else [])
    assert {it.path for it in warnings_of(loaded)} <= {"record.path"}


def test_a_record_has_a_path_from_where_the_configuration_is(tmp_path: Path) -> None:
    (tmp_path / "hooks").mkdir()
    text = "record: {path: hooks/calls.jsonl, sample: 10%, failures_only: true, max_size: 1MiB, files: 2, mask: []}"
    record = loads(THREE_UPSTREAMS + text, str(tmp_path / "gateway.yaml")).config.record
    assert record is not None
    assert record[:6] == (str(tmp_path / "hooks/calls.jsonl"), 0.1, True, 1 << 20, 2, ())


def test_a_record_s_defaults_are_those_of_the_recorder(tmp_path: Path) -> None:
    record = loads("record: {path: f}", str(tmp_path / "gateway.yaml")).config.record
    assert record is not None
    assert record[:6] == RecordSettings(str(tmp_path / "f"))[:6]
