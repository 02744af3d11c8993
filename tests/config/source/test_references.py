"""References: what they bring in, and what is wrong with them."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import ConfigError, Loaded, loads

SECRET = "hunter2-S3CRET"


def load_headers(body: str) -> Loaded:
    return loads(f"upstreams:\n  u: {{url: http://h, {body}}}\napps: {{a: {{upstream: u}}}}\n")


def header(value: str) -> str:
    return load_headers(f"headers: {{X-A: {value}}}").config.upstreams["u"].headers["X-A"].get_secret_value()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_TEST_SECRET", SECRET)
    monkeypatch.setenv("GATEWAY_TEST_EMPTY", "")


REJECTED = [
    ("log: {level: '${env:}'}\n", '1:14: log.level: "" is not the name of an environment variable; write ${env:NAME} or ${file:/path}, or $${ for a plain ${'),
    ("log: {level: '${file:secret}'}\n", '1:14: log.level: "secret" is not an absolute path; write ${env:NAME} or ${file:/path}, or $${ for a plain ${'),
    ("log: {level: '${LEVEL}'}\n", '1:14: log.level: "${LEVEL}" is not known; write ${env:NAME} or ${file:/path}, or $${ for a plain ${'),
    ("log: {level: 'a${env:X'}\n", "1:14: log.level: has a ${ without its }; write ${env:NAME} or ${file:/path}, or $${ for a plain ${"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("${env:GATEWAY_TEST_SECRET}", SECRET),
        ("Bearer ${env:GATEWAY_TEST_SECRET}", f"Bearer {SECRET}"),
        ("'${env:GATEWAY_TEST_SECRET}-${env:GATEWAY_TEST_SECRET}'", f"{SECRET}-{SECRET}"),
        ("a${env:GATEWAY_TEST_EMPTY}b", "ab"),
        ("$${env:GATEWAY_TEST_SECRET}", "${env:GATEWAY_TEST_SECRET}"),
        ("'$$${env:GATEWAY_TEST_SECRET}'", "$${env:GATEWAY_TEST_SECRET}"),
        ("a$b", "a$b"),
        ("'$$'", "$$"),
    ],
)
def test_references_are_expanded_anywhere_in_a_value(written: str, meant: str) -> None:
    assert header(f'"{written}"' if "'" not in written else written) == meant


@pytest.mark.parametrize(("content", "value"), [("pw", "pw"), ("pw\n", "pw"), ("pw\r\n", "pw"), ("", "")])
def test_a_file_loses_one_trailing_line_end(tmp_path: Path, content: str, value: str) -> None:
    (tmp_path / "secret").write_bytes(content.encode())
    assert header(f'"${{file:{tmp_path}/secret}}"') == value


def test_a_second_line_end_is_kept_and_refused_as_a_header(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n\n")
    with pytest.raises(ConfigError, match="must be one line of printable ASCII characters"):
        header(f'"${{file:{tmp_path}/secret}}"')


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"x" * 65537, "it is larger than 64 KiB"), (b"\xff", "it is not UTF-8 (byte 0)"), (None, "it is a directory")],
)
def test_a_file_that_cannot_be_taken_is_a_problem(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "secret"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        header(f'"${{file:{path}}}"')
    (problem,) = caught.value.problems
    assert problem.path == "upstreams.u.headers.X-A"
    assert problem.message.endswith(f"cannot be read: {reason}")


def test_a_small_text_cannot_expand_without_bound(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x" * 65536)
    with pytest.raises(ConfigError, match="the references of this file bring in more than 16 MiB"):
        header('"' + f"${{file:{tmp_path}/secret}}" * 300 + '"')


def test_an_unresolved_reference_is_one_problem_and_not_two() -> None:
    with pytest.raises(ConfigError) as caught:
        loads("apps: {a: {upstream: '${env:NO_SUCH}', timeout: '${env:NO_SUCH}'}}\n")
    assert len(caught.value.problems) == 2


def test_keys_are_not_expanded() -> None:
    loaded = loads("apps: {'${env:GATEWAY_TEST_SECRET}': {static: allow}}\n")
    assert list(loaded.config.apps) == ["${env:GATEWAY_TEST_SECRET}"]
