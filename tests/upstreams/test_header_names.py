"""What PHP takes for another header does not reach it: underscores, dots, X-Gateway-*, and forged names of our own."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstreams import header_names
from gateway.upstreams.header_names import may_pass, php_name
from gateway.upstreams.headers import CompiledPolicy, Identity, Policy, forward_headers, hook_header_lines, parse_head
from tests.support.faulty import FaultyBackend
from tests.support.gateways import RunningGateway, running_gateway
from tests.support.programs import Backend, apache_php, apache_php_fpm, php_server

SCRIPT: Final = Path(__file__).parent.parent / "tools" / "headers.php"
ODD: Final = "!#$%&'*+.^_`|~"
"""What a name may have besides letters, digits and hyphens (RFC 9110, section 5.6.2)."""
KEY: Final = "s3cret"


@pytest.fixture(autouse=True)
def nothing_logged_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_names, "_logged", set())


def through(fields: list[tuple[str, str]], **policy: Any) -> list[tuple[bytes, bytes]]:
    """The fields that a backend gets of a client's."""
    compiled = CompiledPolicy(Policy(**policy))
    received = parse_head(tuple((name.lower().encode(), value.encode()) for name, value in fields))
    lines = forward_headers(received, compiled, "192.0.2.7", "http") + hook_header_lines(Identity(b"id", b"trace"))
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines.split(b"\r\n") if line)]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("keep", [False, True])
def test_a_name_with_an_odd_character_goes_on_only_where_the_operator_wants_it(odd: str, keep: bool) -> None:
    got = through([(f"X{odd}Api", "1"), ("X-Api", "2")], keep_underscores=keep)
    assert (f"x{odd}api".encode() in dict(got)) is keep
    assert (b"x-api", b"2") in got


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "X-Gateway-Shadow", "X_Gateway_Shadow", "x-gateway_replay", "X.Gateway.Redelivery", "X-Gateway-",
        "X-Forwarded-Port", "X_Forwarded_For", "X.Forwarded.Proto", "Proxy", "X_Request_Id", "x_request-timeout.ms",
        "Content_Length", "Transfer_Encoding", "X-Api_Key", "X_API_KEY", "X-Api-Key", "Proxy_Authorization",
    ],
)  # fmt: skip
def test_no_client_sets_what_the_gateway_or_its_operator_sets(name: str, keep: bool) -> None:
    got = through([(name, "forged")], headers=((b"X-Api-Key", KEY.encode()),), keep_underscores=keep)
    assert b"forged" not in [value for _, value in got]
    assert (b"x-api-key", KEY.encode()) in got


def test_a_header_that_the_operator_spells_with_an_underscore_is_guarded_as_well() -> None:
    got = through([("X-Api-Key", "forged"), ("X_Api_Key", "forged")], headers=((b"X_Api_Key", b"1"),))
    assert [value for name, value in got if b"api" in name] == [b"1"]


@given(
    st.text("abcXYZ019-" + ODD, min_size=1, max_size=12).map(lambda text: text.lower().encode()),
    st.frozensets(st.sampled_from((b"x-a", b"via", b"x-b-c"))),
    st.booleans(),
)
def test_what_passes_looks_to_php_like_nothing_that_is_taken(name: bytes, taken: frozenset[bytes], keep: bool) -> None:
    passes = may_pass(name, taken, keep_odd=keep)
    is_plain = not any(char in ODD for char in name.decode())
    if passes and not is_plain:
        assert keep
        assert php_name(name) not in taken
    if is_plain:
        assert passes or name == b"proxy" or name.startswith((b"x-gateway-", b"x-forwarded-"))


def test_the_log_tells_once_of_each_name_and_of_a_bounded_number(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for number in (*range(100), *range(100)):
            may_pass(b"x_%d" % number + b"x" * 300, (), keep_odd=False)
            may_pass(b"x-gateway-shadow", (), keep_odd=False)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 64
    assert len([line for line in lines if "x-gateway-shadow" in line]) == 1
    assert max(map(len, lines)) < 250
    assert "no further names are logged" in lines[-1]


# --- with real processes ---


def configuration(url: str, **server: Any) -> str:
    return json.dumps(
        {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", **server},
            "defaults": {"dedupe": "off", "timeout": "5s"},
            "upstreams": {"php": {"url": url, "headers": {"X-Api-Key": KEY}}},
            "apps": {"defaultApp": {"upstream": "php"}},
        }
    )


FORGED: Final = {f"X{odd}Api{odd}Key": "forged" for odd in ODD} | {
    "X_Request_Id": "forged", "X_Gateway_Shadow": "forged", "X-Gateway-Replay": "forged", "Proxy": "forged",
    "X.Forwarded.For": "forged", "X_Forwarded_Proto": "forged", "Content_Length": "1", "X-Forwarded-For": "forged",
}  # fmt: skip


@pytest.mark.real
@pytest.mark.parametrize("server", [php_server, apache_php, apache_php_fpm], ids=["php -S", "Apache", "FPM"])
@pytest.mark.parametrize("policy", ["drop", "keep"])
def test_php_sees_the_gateway_s_headers_whatever_a_client_forges(
    server: Callable[..., AbstractContextManager[Backend]], policy: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        backend = stack.enter_context(server(script=SCRIPT))
        config = configuration(backend.url, underscore_headers=policy)
        gateway = stack.enter_context(running_gateway(config, tmp_path))
        answer = gateway.hook(headers=FORGED | {"X-Own": "kept"})
        seen = answer.json()["seen"]
        assert "forged" not in [value for name, value in seen.items() if "." not in name and name.isidentifier()]
        assert (seen["HTTP_X_API_KEY"], seen["HTTP_X_OWN"]) == (KEY, "kept")
        assert seen["HTTP_X_REQUEST_ID"] == answer.headers["x-request-id"]
        assert seen["HTTP_X_FORWARDED_FOR"] == "127.0.0.1"
        assert int(seen["CONTENT_LENGTH"]) > 1
        gateway.wait_for_line(lambda line: line.get("header") == "x_api_key")
        told = [line["header"] for line in gateway.lines() if line.get("event") == "header_dropped"]
        assert len(told) == len(set(told))


@pytest.fixture(scope="module")
def backend() -> Iterator[FaultyBackend]:
    with FaultyBackend() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(backend: FaultyBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(configuration(backend.url_of("ok")), tmp_path_factory.mktemp("gateway")) as running:
        yield running


def test_a_reload_changes_what_becomes_of_them(gateway: RunningGateway, backend: FaultyBackend) -> None:
    def seen() -> list[bytes]:
        assert gateway.hook(headers={"X_Own": "1"}).status_code == 200
        return backend.requests_of("ok")[-1].values("x_own")

    assert seen() == []
    gateway.reload(configuration(backend.url_of("ok"), underscore_headers="keep"))
    assert seen() == [b"1"]
    gateway.reload(configuration(backend.url_of("ok")))
    assert seen() == []


def test_every_answer_says_that_nobody_may_store_it(gateway: RunningGateway) -> None:
    refusals: list[tuple[str, bytes | None]] = [("OnCallEvent", None), ("OnCallEvent", b"no JSON"), ("1", b"{}")]
    answers = [gateway.hook(method, body) for method, body in refusals]
    answers.append(gateway.hook(appKey="nobody"))
    answers.append(gateway.client.get(f"{gateway.url}/OnCallEvent"))
    assert [answer.status_code for answer in answers] == [200, 400, 404, 403, 405]
    assert {answer.headers["cache-control"] for answer in answers} == {"no-store"}
    raw = gateway.send(b"no HTTP\r\n\r\n")
    assert (raw.status, raw.headers["cache-control"]) == (400, "no-store")
