"""What is parsed after the load is parsed at the load too: what passes the check is what a process can be built of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.dry_run import prove
from gateway.config import Config, ConfigError, KeyPath, Upstream, load, loads
from gateway.config.sections.addresses import is_host, parse_authority
from gateway.config.sections.upstreams import target_names
from gateway.config.source.problems import DEFECT
from gateway.http.client import Resolver
from gateway.http.client.transport import url_origin
from tests.support.gateways import running_gateway, wait_until

PEM: Final = Path(__file__).parent / "pem"
HOST: Final = "must be a URL whose host is an IP address such as 192.168.1.101, or a host name"
SECRET: Final = "s3cret-7331"

BAD_HOSTS: Final = (
    "192.168.1.256", "192.168.01.101", "1.2.3", "1", "127.0.0.0x1", "xn--a-", "xn--zzzz99", "XN--ZZZZ99",
    "php.xn--zzzz99", "[v1.x]", "[::1%25eth0]", "a..b", "-a", "a-", ".a", "a" * 64, "a.1", "a,b", "(a)", "a%41",
    "[127.0.0.1]", "[::1", "a..", "1.2.3.4.", "b[::1]",
)  # fmt: skip
GOOD_HOSTS: Final = (
    "192.168.1.101", "h", "h.", "my_php", "a-b.example", "[::1]", "[2001:db8::1]", "xn--mnchen-3ya.de",
    "xn--strae-oqa.de", "XN--STRAE-OQA.de", "a" * 63, "1a", "0xy",
)  # fmt: skip


def said(text: str) -> list[str]:
    """The problems of a configuration, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        loads(text)
    return [str(problem).removeprefix("gateway.yaml:") for problem in caught.value.problems]


# --- hosts ---


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_a_host_that_nothing_can_be_connected_to_is_refused_wherever_there_is_a_url(host: str) -> None:
    for scheme in ("http", "https"):
        problems = said(f"upstreams: {{u: {{targets: [{{url: '{scheme}://{host}/x'}}]}}}}\n")
        assert len(problems) == 1
        assert problems[0].startswith("1:28: upstreams.u.targets[0].url: must be a URL")
    assert said(f"tracing: {{endpoint: 'http://{host}:4318'}}\n")[0].startswith("1:11: tracing.endpoint: must be a URL")
    assert said(f"upstreams: {{u: {{url: http://h, host: '{host}'}}}}\n") == [
        "1:32: upstreams.u.host: must be target, preserve, or a host name such as legacy.example.com"
    ]


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_a_host_that_something_can_be_connected_to_is_taken(host: str) -> None:
    for port in ("", ":1", ":65535"):
        loaded = loads(f"upstreams: {{u: {{url: 'https://{host}{port}/x', host: '{host}{port}'}}}}\n")
        assert list(prove(loaded.config)) == []


@given(st.text("0123456789.xX:[]%-_~aé", max_size=24) | st.from_regex(r"xn--[a-z0-9-]{0,12}", fullmatch=True))
def test_what_passes_for_a_host_is_one_for_all_that_use_it(host: str) -> None:
    try:
        parse_authority(host)
    except ValueError:
        return
    url = httpx.URL(f"http://{host}/x")
    assert url.host is not None  # which decodes Punycode
    assert target_names([f"http://{host}/x"])
    origin = url_origin(url)
    assert origin.host.encode("idna") == origin.host.encode("ascii")


@pytest.mark.parametrize(("written", "sent"), [("xn--strae-oqa.de", "xn--strae-oqa.de"), ("[::1]", "::1")])
async def test_the_name_that_is_looked_up_is_the_one_that_is_written(
    written: str, sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's own codec knows IDNA 2003 only, and makes strasse.de of it: somebody else's host."""
    assert url_origin(httpx.URL(f"https://{written}/")).host == sent
    asked: list[Any] = []

    def getaddrinfo(host: Any, *_: Any, **options: Any) -> list[Any]:
        asked.append(host)
        return [(2, 1, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    resolver = Resolver()
    await resolver.resolve(url_origin(httpx.URL(f"https://{written}/")).host)
    await resolver.aclose()
    assert asked == ([] if written.startswith("[") else [sent])


def test_a_scheme_in_capitals_is_no_way_round_the_verification_of_certificates() -> None:
    config = loads("tracing: {endpoint: 'HTTPS://collector/otlp/'}\nupstreams: {u: {url: 'HTTP://H/X/'}}\n").config
    assert config.tracing is not None
    assert config.tracing.endpoint == "https://collector/otlp"
    assert config.upstreams["u"].url == "http://H/X"


def test_a_url_leaves_room_for_method_and_query() -> None:
    loads(f"upstreams: {{u: {{url: 'http://h/{'x' * 2039}'}}}}\n")
    assert said(f"upstreams: {{u: {{url: 'http://h/{'x' * 2040}'}}}}\n") == [
        "1:17: upstreams.u.url: must be a URL of at most 2048 characters"
    ]


def test_a_host_is_told_from_what_only_looks_like_one() -> None:
    assert [is_host(text) for text in ("::1", "1.2.3.4", "h.example", "fe80::1%eth0", "h.", "", "xn--zzzz99")] == [
        True, True, True, False, False, False, False,
    ]  # fmt: skip


# --- other values that are parsed later ---

PROBLEMS: Final = [
    ("upstreams: {u: {url: 'http://192.168.1.256/x'}}\n", f"1:17: upstreams.u.url: {HOST}"),
    (
        "apps:\n  a: {static: allow, shadow: {upstream: nope}}\n",
        "2:31: apps.a.shadow.upstream: no upstream has this name",
    ),
    (
        "apps:\n  a: {static: allow, methods: {call: {shadow: {upstream: nope}}}}\n",
        "2:48: apps.a.methods.call.shadow.upstream: no upstream has this name",
    ),
    (
        "apps: {a: {static: allow, rules: [{time: ſat, verdict: allow}]}}\n",
        "1:36: apps.a.rules[0].time: must be a time window such as Mon-Fri 22:00-06:00 Europe/Berlin, not \"ſat\"",
    ),
    (
        "admin: {token: 'tökén'}\n",
        "1:9: admin.token: must be printable ASCII characters, the first and the last no spaces: a header carries it",
    ),
    (
        "admin: {token: ' t'}\n",
        "1:9: admin.token: must be printable ASCII characters, the first and the last no spaces: a header carries it",
    ),
    (
        "server: {admin: '[fe80::1%a b]:80'}\n",
        '1:10: server.admin: must be an address such as 127.0.0.1:8080, [::1]:8080 or :8080, not "[fe80::1%a b]:80"',
    ),
    (
        "server: {listen: '0x7f.1:80'}\n",
        "1:10: server.listen: must be an address such as 127.0.0.1:8080, [::1]:8080, :8080 or unix:/run/gateway.sock, "
        'not "0x7f.1:80"',
    ),
    (f"record: {{path: {'x' * 254}}}\n", "1:10: record.path: its directory cannot be used: file name too long"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), PROBLEMS)
def test_what_would_fail_later_is_reported_at_its_place(text: str, message: str) -> None:
    assert said(text) == [message]


@pytest.mark.parametrize("number", ["9" * 400, "-" + "9" * 399, "1" + "0" * 20, ".nan", ".inf", "1e400"])
def test_a_share_is_no_number_that_a_float_cannot_hold(number: str) -> None:
    problems = said(f"record: {{path: x, sample: {number}}}\n")
    assert problems == [
        f"1:19: record.sample: must be a share such as 10% or 0.1, more than 0 and at most 1, not {number[:60]}"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server: {allow_from: ['${env:S}']}", 'must have no bits beyond its prefix, not "${env:S}"'),
        ("server: {listen: ['${env:A}', '${env:A}']}", '"${env:A}" is taken by another address of this list'),
        (
            "defaults: {timeout: '${env:T}'}",
            'timeout "${env:T}" must be below 14.5s (media_server.',
        ),
        ("media_server: {margin: '${env:T}'}", '"${env:T}" leaves no time for a hook'),
        ("media_server: {request_timeout: '${env:T}'}\ndefaults: {timeout: 599s}", 'request_timeout "${env:T}" minus'),
        ("upstreams: {u: {url: http://h, health: {timeout: '${env:T}'}}}", '"${env:T}" is longer than interval'),
    ],
)
def test_a_message_has_a_reference_and_not_what_it_stands_for(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("S", "10.73.31.9/8"), ("A", "127.73.31.1:7331"), ("T", "73.31s")):
        monkeypatch.setenv(name, value)
    problems = "\n".join(said(text + "\n"))
    assert message in problems
    assert "73.31" not in problems


# --- the last net ---


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
    problems = said("log: {level: info}\nserver: {allow_from: [10.0.0.1]}\n")
    assert len(problems) == 1
    assert problems[0].startswith("2:10: server.allow_from: cannot be used (ZeroDivisionError in test_downstream.py:")
    assert SECRET not in problems[0]


def test_a_check_that_fails_is_a_problem_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.config.checks.cross.CrossChecks.__init__", _fail)
    problems = said("log: {level: info}\n")
    assert len(problems) == 1
    assert problems[0].startswith("1:1: cannot be used (ZeroDivisionError in test_downstream.py:")


def _fail(*_: object) -> None:
    raise ZeroDivisionError(SECRET)


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


# --- a gateway that runs ---


@pytest.mark.parametrize("workers", [1, 2])
def test_a_mistyped_address_takes_nothing_down(workers: int, tmp_path: Path) -> None:
    good = (
        f"server: {{listen: '127.0.0.1:0', admin: '127.0.0.1:0', workers: {workers}}}\n"
        "upstreams: {u: {url: 'http://127.0.0.1:1/x'}}\napps: {a: {static: allow}}\n"
    )
    with running_gateway(good, tmp_path) as gateway:
        pids = gateway.get("/api/status").json()["workers"]
        for host in ("192.168.1.256", "192.168.01.101", "xn--zzzz99"):
            gateway.write_config(good.replace("127.0.0.1:1", host))
            answer = gateway.post("/-/reload")
            assert answer.status_code == 422
            assert answer.json()["problems"] == [f"{gateway.config}:2:17: upstreams.u.url: {HOST}"]
            assert gateway.hook(appKey="a").status_code == 200
        # The file is still looked at, by itself too, and nobody has died.
        known = len(gateway.reloads("success"))
        gateway.write_config(good.replace("apps: {", "apps: {b: {static: allow}, "))
        assert wait_until(lambda: len(gateway.reloads("success")) > known)
        assert gateway.hook(appKey="b").status_code == 200
        assert gateway.get("/api/status").json()["workers"] == pids
