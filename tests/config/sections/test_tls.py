"""TLS sections and the files that they name."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from gateway.config import ConfigError, Loaded, load, loads
from gateway.config.sections.tls import MAX_FILE
from tests.config.texts import PEM


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the configuration is: every PEM file, and a few that are none."""
    for file in PEM.iterdir():
        shutil.copy(file, tmp_path)
    certificate = (PEM / "certificate.pem").read_text()
    (tmp_path / "empty.pem").touch()
    (tmp_path / "noise.pem").write_bytes(b"\xff\x00noise" * 100)
    (tmp_path / "torn.pem").write_text(certificate[: len(certificate) // 2])
    (tmp_path / "both.pem").write_text(certificate + (PEM / "key.pem").read_text())
    with (tmp_path / "large.pem").open("wb") as large:
        large.truncate(MAX_FILE + 1)
    os.mkfifo(tmp_path / "pipe.pem")
    return tmp_path


def load_server(directory: Path, tls: str) -> Loaded:
    return loads(f"server: {{tls: {{{tls}}}}}\n", str(directory / "gateway.yaml"))


def load_upstream(directory: Path, tls: str) -> Loaded:
    return loads(f"upstreams: {{u: {{url: https://h, tls: {{{tls}}}}}}}\n", str(directory / "gateway.yaml"))


NO_CERTIFICATE = "the file holds no certificate in PEM form"


def messages(error: ConfigError) -> list[str]:
    return [f"{problem.path}: {problem.message}" for problem in error.problems]


NO_KEY = "the file holds no private key in PEM form"
PATH_FORM = "must be the path of a file: absolute, or from the directory of the configuration"
SERVER_NAME = "must be a host name such as legacy.example.com, or an IP address"


def test_paths_start_at_the_configuration_s_directory_and_are_absolute_when_loaded(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "etc").mkdir()
    file = directory / "etc" / "gateway.yaml"
    file.write_text(f"server: {{tls: {{certificate: ../certificate.pem, key: {directory}/key.pem}}}}\n")
    monkeypatch.chdir(directory)
    for name in (file, Path("etc/gateway.yaml")):
        tls = load(name).config.server.tls
        assert tls is not None
        assert tls.certificate == f"{directory}/etc/../certificate.pem"
        assert tls.key == f"{directory}/key.pem"


def test_the_server_s_tls_in_full_and_its_defaults(directory: Path) -> None:
    tls = load_server(directory, "certificate: certificate.pem, key: key.pem").config.server.tls
    assert tls is not None
    assert (tls.client_ca, tls.minimum_version) == (None, "1.2")
    tls = load_server(
        directory, "certificate: both.pem, key: both.pem, client_ca: certificate.pem, minimum_version: '1.3'"
    ).config.server.tls
    assert tls is not None
    assert (tls.client_ca, tls.minimum_version) == (f"{directory}/certificate.pem", "1.3")


def test_an_upstream_s_tls_in_full_and_its_defaults(directory: Path) -> None:
    tls = load_upstream(directory, "").config.upstreams["u"].tls
    assert tls is not None
    assert (tls.ca, tls.certificate, tls.key, tls.minimum_version, tls.server_name) == (None, None, None, "1.2", None)
    tls = load_upstream(
        directory,
        "ca: certificate.pem, certificate: certificate.pem, key: key.pem, minimum_version: '1.0', server_name: legacy",
    ).config.upstreams["u"].tls  # fmt: skip
    assert tls is not None
    assert (tls.ca, tls.certificate) == (f"{directory}/certificate.pem", f"{directory}/certificate.pem")
    assert (tls.key, tls.minimum_version, tls.server_name) == (f"{directory}/key.pem", "1.0", "legacy")


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2", "1.3"])
def test_a_version_means_the_same_with_quotes_and_without(directory: Path, version: str) -> None:
    for written in (version, f"'{version}'"):
        tls = load_upstream(directory, f"minimum_version: {written}").config.upstreams["u"].tls
        assert tls is not None
        assert tls.minimum_version == version


def test_one_https_target_is_enough_for_tls_to_have_an_effect() -> None:
    targets = "targets: [{url: http://h}, {url: 'HTTPS://i'}]"
    assert loads(f"upstreams: {{u: {{{targets}, tls: {{}}}}}}\n").config.upstreams["u"].tls is not None


@pytest.mark.parametrize(
    ("tls", "found"),
    [
        ("certificate: none.pem, key: key.pem", ["certificate: the file cannot be read: no such file or directory"]),
        ("certificate: ., key: key.pem", ["certificate: the file cannot be read: it is a directory"]),
        ("certificate: certificate.pem, key: pipe.pem", ["key: the file cannot be read: it is not a regular file"]),
        ("certificate: large.pem, key: key.pem", ["certificate: the file cannot be read: it is larger than 4 MiB"]),
        ("certificate: certificate.pem, key: " + "a" * 300, ["key: the file cannot be read: file name too long"]),
        ("certificate: key.pem, key: certificate.pem", [f"certificate: {NO_CERTIFICATE}"]),
        ("certificate: empty.pem, key: empty.pem", [f"certificate: {NO_CERTIFICATE}"]),
        ("certificate: noise.pem, key: key.pem", [f"certificate: {NO_CERTIFICATE}"]),
        ("certificate: torn.pem, key: key.pem", [f"certificate: {NO_CERTIFICATE}"]),
        (
            "certificate: certificate.pem, key: key.pem, client_ca: none.pem",
            ["client_ca: the file cannot be read: no such file or directory"],
        ),
        ("certificate: certificate.pem, key: key.pem, client_ca: key.pem", [f"client_ca: {NO_CERTIFICATE}"]),
        (
            "certificate: torn.pem, key: none.pem, client_ca: noise.pem",
            [
                f"certificate: {NO_CERTIFICATE}",
                f"client_ca: {NO_CERTIFICATE}",
                "key: the file cannot be read: no such file or directory",
            ],
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_told_with_where_relative_paths_start(
    directory: Path, tls: str, found: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_server(directory, tls)
    start = f'(relative paths start at "{directory}")'
    assert sorted(messages(caught.value)) == [f"server.tls.{message} {start}" for message in found]


def test_an_absolute_path_is_told_without_where_relative_ones_start(directory: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_upstream(directory, "ca: /no/such/file")
    assert messages(caught.value) == ["upstreams.u.tls.ca: the file cannot be read: no such file or directory"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_a_problem(directory: Path) -> None:
    (directory / "key.pem").chmod(0)
    with pytest.raises(ConfigError, match=r"server\.tls\.key: the file cannot be read: permission denied"):
        load_server(directory, "certificate: certificate.pem, key: key.pem")


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("certificate: certificate.pem, key: other-key.pem", "key: the key does not belong to the certificate"),
        ("certificate: certificate.pem, key: rsa-key.pem", "key: the key does not belong to the certificate"),
        ("certificate: certificate.pem, key: certificate.pem", f"key: {NO_KEY}"),
        ("certificate: certificate.pem, key: empty.pem", f"key: {NO_KEY}"),
        ("certificate: certificate.pem, key: noise.pem", f"key: {NO_KEY}"),
        (
            "certificate: certificate.pem, key: encrypted-key.pem",
            "key: the key is encrypted, and the gateway cannot ask for its password: store it decrypted, readable by "
            "the gateway's user only",
        ),
        (
            "certificate: weak-certificate.pem, key: weak-key.pem",
            "certificate: OpenSSL rejects the certificate as too weak: ee key too small",
        ),
    ],
)
def test_a_certificate_and_a_key_that_do_not_fit_are_a_problem_on_both_sides(
    directory: Path, pair: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_server(directory, pair)
    assert messages(caught.value) == [f"server.tls.{message}"]
    with pytest.raises(ConfigError) as caught:
        load_upstream(directory, pair)
    assert messages(caught.value) == [f"upstreams.u.tls.{message}"]


def test_a_weak_certificate_goes_with_an_old_minimum_version(directory: Path) -> None:
    load_upstream(directory, "certificate: weak-certificate.pem, key: weak-key.pem, minimum_version: 1.0")


def test_a_reference_in_a_path_is_resolved(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_TEST_DIRECTORY", str(directory))
    tls = load_upstream(directory, "ca: '${env:GATEWAY_TEST_DIRECTORY}/certificate.pem'").config.upstreams["u"].tls
    assert tls is not None
    assert tls.ca == f"{directory}/certificate.pem"
    with pytest.raises(ConfigError) as caught:
        load_upstream(directory, "ca: '${env:NO_SUCH_VARIABLE}/certificate.pem'")
    assert messages(caught.value) == ["upstreams.u.tls.ca: the environment variable NO_SUCH_VARIABLE is not set"]


def test_looking_at_files_leaves_none_open(directory: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in ("certificate.pem", "noise.pem", "pipe.pem", "large.pem", "none.pem"):
        with pytest.raises(ConfigError):
            load_server(directory, f"certificate: {name}, key: other-key.pem, client_ca: {name}")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server: {tls: on}\n", '1:10: server.tls: must be a mapping, not "on"'),
        ("server: {tls: }\n", "1:10: server.tls: must be a mapping, not empty"),
        ("upstreams: {u: {url: https://h, tls: {ca: }}}\n", f"1:39: upstreams.u.tls.ca: {PATH_FORM}"),
        ("upstreams: {u: {url: https://h, tls: {ca: [a.pem]}}}\n", f"1:39: upstreams.u.tls.ca: {PATH_FORM}"),
        ('upstreams: {u: {url: https://h, tls: {ca: "a\\nb"}}}\n', f"1:39: upstreams.u.tls.ca: {PATH_FORM}"),
        ("upstreams: {u: {url: https://h, tls: {ca: " + "a/" * 2048 + "}}}\n", f"1:39: upstreams.u.tls.ca: {PATH_FORM}"),
        ("upstreams: {u: {url: https://h, tls: {verify: false}}}\n", "1:39: upstreams.u.tls.verify: unknown key"),
        ("upstreams: {u: {url: https://h, tls: {minimum_version: 1}}}\n", "1:39: upstreams.u.tls.minimum_version: must be 1.0, 1.1, 1.2 or 1.3, not 1"),
        ("upstreams: {u: {url: https://h, tls: {minimum_version: 1.25}}}\n", "1:39: upstreams.u.tls.minimum_version: must be 1.0, 1.1, 1.2 or 1.3, not 1.25"),
        ("upstreams: {u: {url: https://h, tls: {minimum_version: TLSv1.2}}}\n", '1:39: upstreams.u.tls.minimum_version: must be 1.0, 1.1, 1.2 or 1.3, not "TLSv1.2"'),
        ("upstreams: {u: {url: https://h, tls: {server_name: 'h:1'}}}\n", f"1:39: upstreams.u.tls.server_name: {SERVER_NAME}"),
        ("upstreams: {u: {url: https://h, tls: {server_name: 'h.'}}}\n", f"1:39: upstreams.u.tls.server_name: {SERVER_NAME}"),
        ("upstreams: {u: {url: https://h, tls: {server_name: ''}}}\n", f"1:39: upstreams.u.tls.server_name: {SERVER_NAME}"),
        ("upstreams: {u: {url: https://h, tls: {server_name: 1.2.3}}}\n", f"1:39: upstreams.u.tls.server_name: {SERVER_NAME}"),
        ("upstreams: {u: {url: https://h, tls: {server_name: 'fe80::1%1'}}}\n", f"1:39: upstreams.u.tls.server_name: {SERVER_NAME}"),
        ("upstreams: {u: {url: http://h, tls: {}}}\n", "1:32: upstreams.u.tls: has no effect: no target is https"),
        ("upstreams: {u: {targets: [{url: http://h}, {url: 'HTTP://i'}], tls: {}}}\n", "1:64: upstreams.u.tls: has no effect: no target is https"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


def test_an_upstream_s_certificate_and_key_stand_together(directory: Path) -> None:
    for written, missing in (("certificate", "key"), ("key", "certificate")):
        with pytest.raises(ConfigError) as caught:
            load_upstream(directory, f"{written}: {written}.pem")
        assert messages(caught.value) == [f"upstreams.u.tls.{written}: needs {missing} too: write both, or neither"]


def test_the_server_s_version_is_1_2_at_least(directory: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_server(directory, "certificate: certificate.pem, key: key.pem, minimum_version: 1.1")
    assert messages(caught.value) == ["server.tls.minimum_version: must be 1.2 or 1.3, not 1.1"]


def test_the_server_needs_both_certificate_and_key(directory: Path) -> None:
    for written, missing in (("certificate: certificate.pem", "key"), ("key: key.pem", "certificate")):
        with pytest.raises(ConfigError) as caught:
            load_server(directory, written)
        assert messages(caught.value) == [f"server.tls.{missing}: is required"]
