"""Loading as a whole: what no check foresees, many apps, and nothing left open."""

from __future__ import annotations

import gc
import os
import pickle
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pytest
from pydantic import SecretStr

from gateway.admin.dry_run import prove
from gateway.config import (
    Config,
    ConfigError,
    KeyPath,
    Loaded,
    Upstream,
    load,
    loads,
)
from gateway.config.source.problems import DEFECT
from tests.config.texts import PEM, UPSTREAMS, problems_of

SECRET: Final = "s3cret-7331"


def _fail(*_: object) -> None:
    raise ZeroDivisionError(SECRET)


def load_headers(body: str) -> Loaded:
    return loads(f"upstreams:\n  u: {{url: http://h, {body}}}\napps: {{a: {{upstream: u}}}}\n")


def header(value: str) -> str:
    return load_headers(f"headers: {{X-A: {value}}}").config.upstreams["u"].headers["X-A"].get_secret_value()


def test_what_the_checks_overlook_is_reported_at_its_place_and_without_its_words(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("upstreams:\n  u: {url: http://h}\napps:\n  a: {upstream: u}\n  b: {upstream: u}\n")

    def overlooked(config: Config) -> Iterable[tuple[KeyPath, str]]:
        upstream = Upstream.model_construct(**{**dict(config.upstreams["u"]), "balance": SECRET, "host": "é"})
        app = config.apps["b"].model_copy(update={"upstream": SECRET})
        return prove(config.model_copy(update={"upstreams": {"u": upstream}, "apps": {**config.apps, "b": app}}))

    with pytest.raises(ConfigError) as caught:
        load(file, overlooked)
    told = [str(problem).removeprefix(f"{file}:") for problem in caught.value.problems]
    assert [problem.split(" cannot be used")[0] for problem in told] == [
        "2:3: upstreams.u:", "3:1: apps:", "5:3: apps.b:",
    ]  # fmt: skip
    assert all(DEFECT in problem for problem in told)
    assert SECRET not in str(caught.value)


def test_a_validator_that_fails_is_a_problem_of_its_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.config.sections.addresses.parse_network", _fail)
    problems = problems_of("log: {level: info}\nserver: {allow_from: [10.0.0.1]}\n")
    assert len(problems) == 1
    assert problems[0].startswith("2:10: server.allow_from: cannot be used (ZeroDivisionError in test_load.py:")
    assert SECRET not in problems[0]


def test_a_check_that_fails_is_a_problem_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.config.checks.cross.CrossChecks.__init__", _fail)
    problems = problems_of("log: {level: info}\n")
    assert len(problems) == 1
    assert problems[0].startswith("1:1: cannot be used (ZeroDivisionError in test_load.py:")


def test_files_that_go_away_between_check_and_use_are_a_problem_of_theirs(tmp_path: Path) -> None:
    for name in ("certificate.pem", "key.pem"):
        shutil.copy(PEM / name, tmp_path)
    file = tmp_path / "gateway.yaml"
    file.write_text("server:\n  tls: {certificate: certificate.pem, key: key.pem}\n")

    def gone(config: Config) -> Iterator[tuple[KeyPath, str]]:
        os.unlink(tmp_path / "key.pem")
        yield from prove(config)

    with pytest.raises(ConfigError) as caught:
        load(file, gone)
    assert str(caught.value) == f"{file}:2:3: server.tls: cannot be used: no such file or directory"


def test_a_failed_load_leaves_no_open_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x" * 70_000)
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in ("secret", ".", "none"):
        with pytest.raises(ConfigError):
            header(f'"${{file:{tmp_path}/{name}}}"')
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before  # fewer where something of an earlier test ended


def test_ten_thousand_apps_all_load() -> None:
    lines = [
        f"  app-{number:05}: {{upstream: u, timeout: 2s, signature: {{keys: [k{number}]}}}}\n"
        for number in range(10_000)
    ]
    loaded = loads(UPSTREAMS + "apps:\n" + "".join(lines))
    assert len(loaded.config.apps) == 10_000
    settings = loaded.config.settings("app-09999", None)
    assert settings.timeout == 2.0
    assert settings.signature is not None
    assert settings.signature.keys == (SecretStr("k9999"),)


def test_a_configuration_says_which_text_it_was_made_of_also_in_another_process() -> None:
    text = "upstreams: {u: {url: 'http://127.0.0.1:1'}}\napps: {a: {upstream: u}}\n"
    loaded = loads(text)
    assert loaded.config.revision
    assert loaded.digest.startswith(loaded.config.revision)
    assert pickle.loads(pickle.dumps(loaded.config)).revision == loaded.config.revision
    assert loads(text + "# changed\n").config.revision != loaded.config.revision
