"""Who may ask, of a running gateway: what is refused, what then reaches the backend, and what log and metrics say."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import httpx
import pytest

from gateway.policy.access import body_signature
from tests.support.faulty import FaultyBackend, Turn, added_case, reply
from tests.support.gateways import Answer, RunningGateway, read_answer, running_gateway, wait_until

PASSWORD: Final = "password-of-the-media-server"
OWN_PASSWORD: Final = "password-for-the-backend"
OLD_KEY: Final = "old-key-of-the-media-server"
NEW_KEY: Final = "new-key-of-the-media-server"
BACKEND_KEY: Final = "key-that-the-backend-knows"
SECRETS: Final = (PASSWORD, OWN_PASSWORD, OLD_KEY, NEW_KEY, BACKEND_KEY)
ENVIRONMENT: Final = {"TEST_NEW_KEY": NEW_KEY, "TEST_PASSWORD": PASSWORD}
BASIC: Final = {"username": "wcs", "password": "${env:TEST_PASSWORD}"}
SIGNED: Final = {"keys": ["${env:TEST_NEW_KEY}", OLD_KEY]}
NOBODY: Final = ["192.0.2.0/24"]
"""A network of documentation (RFC 5737): no test comes from there."""

numbers = itertools.count()


def basic(userpass: str) -> str:
    return f"Basic {b64encode(userpass.encode()).decode()}"


def wcs(body: bytes, key: str) -> str:
    return f"WCS {body_signature(body, key.encode()).decode()}"


RIGHT: Final = basic(f"wcs:{PASSWORD}")


def body_of(app: str, **fields: Any) -> bytes:
    """A hook that was never sent before, with white space that no re-encoding would keep."""
    return json.dumps({"appKey": app, "callId": f"call-{next(numbers)}", **fields}, indent=1).encode() + b" \r\n"


def checked_by_backend(turn: Turn) -> list[bytes]:
    """A backend that checks signatures itself, with a key of its own."""
    expected = wcs(turn.request.body, BACKEND_KEY).encode()
    if turn.request.values("authorization") == [expected]:
        return [reply(turn.right)]
    return [b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"]


@pytest.fixture(scope="module")
def backend() -> Iterator[FaultyBackend]:
    with added_case("checks", "Checks the hook's signature.", checked_by_backend), FaultyBackend() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(backend: FaultyBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    config = {
        "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "defaults": {"timeout": "10s", "dedupe": "off", "upstream": "plain"},
        "upstreams": {
            "plain": {"url": backend.url_of("ok"), "breaker": "off"},
            "own": {
                "url": backend.url_of("ok"),
                "breaker": "off",
                "credentials": {"username": "gateway", "password": OWN_PASSWORD},
            },
            "checks": {"url": backend.url_of("checks"), "breaker": "off"},
        },
        "apps": {
            "open": {},
            "basic": {"credentials": BASIC},
            "basic-own": {"credentials": BASIC, "upstream": "own"},
            "basic-static": {"credentials": BASIC, "static": "allow"},
            "tenant-*": {"credentials": BASIC},
            "signed": {"signature": SIGNED},
            "signed-static": {"signature": SIGNED, "static": "allow"},
            "signed-own": {"signature": SIGNED, "upstream": "own"},
            "signed-anew": {"signature": {**SIGNED, "upstream_key": BACKEND_KEY}, "upstream": "checks"},
            "passed": {"signature": {"mode": "pass"}, "upstream": "checks"},
            "passed-anew": {"signature": {"mode": "pass", "upstream_key": BACKEND_KEY}, "upstream": "checks"},
            "strict": {"credentials": BASIC, "methods": {"OnCallEvent": {"fallback": "allow"}}},
        },
    }
    directory = tmp_path_factory.mktemp("access")
    with running_gateway(json.dumps(config), directory, environment=ENVIRONMENT) as running:
        yield running


def ask(gateway: RunningGateway, body: bytes, *authorization: str, method: str = "OnCallEvent") -> httpx.Response:
    """A hook with these Authorization fields."""
    fields = [("Content-Type", "application/json"), *(("Authorization", value) for value in authorization)]
    return gateway.client.post(f"{gateway.url}/{method}", content=body, headers=fields)


def assert_unauthorized(
    gateway: RunningGateway, backend: FaultyBackend, body: bytes, *authorization: str, challenge: str = "Basic "
) -> None:
    """401 with its challenge; no backend hears of the hook; log and metrics know why."""
    app = json.loads(body)["appKey"]
    labels = {"verdict": "error", "source": "gateway", "reason": "unauthorized", "method": "OnCallEvent"}
    before, seen = gateway.metric("gateway_hooks_total", **labels), len(backend.requests)
    answer = ask(gateway, body, *authorization)
    assert answer.status_code == 401, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith(challenge)
    assert answer.headers["proxy-status"].startswith("gateway; error=http_request_denied")
    assert answer.json()["status"] == 401
    line = gateway.access_line(answer.headers["x-request-id"])
    assert (line["status"], line["reason"], line["source"], line["verdict"]) == (
        401,
        "unauthorized",
        "gateway",
        "error",
    )
    assert (line["upstream"], line["target"], line["attempts"]) == (
        None if "static" in app else line["upstream"], None, 0,
    )  # fmt: skip
    assert gateway.metric("gateway_hooks_total", **labels) == before + 1
    assert len(backend.requests) == seen


def received_authorization(backend: FaultyBackend, body: bytes) -> list[bytes]:
    """What the backend got with the one hook that had this body."""
    (request,) = [request for request in backend.requests if request.body == body]
    return request.values("authorization")


# --- credentials ---


@pytest.mark.parametrize(
    "authorization",
    [
        [],
        [basic("wcs:wrong")],
        [basic("other:" + PASSWORD)],
        [basic(f"wcs:{PASSWORD}x")],
        [basic("wcs:")],
        [RIGHT, RIGHT],
        [RIGHT, basic("wcs:wrong")],
        [RIGHT + "!"],
        ["Basic %%%"],
        ["Basic"],
        [f"Basic wcs:{PASSWORD}"],
        [RIGHT.replace("Basic", "Bearer")],
        [RIGHT.replace("Basic", "WCS")],
        [f"{RIGHT}, {RIGHT}"],
    ],
    ids=[
        "none", "wrong password", "wrong user", "longer password", "no password", "twice", "two different",
        "more than base64", "no base64", "nothing", "not encoded", "Bearer", "WCS", "a list",
    ],
)  # fmt: skip
def test_a_hook_without_exactly_its_app_s_credentials_is_401_and_reaches_no_backend(
    gateway: RunningGateway, backend: FaultyBackend, authorization: list[str]
) -> None:
    assert_unauthorized(gateway, backend, body_of("basic"), *authorization)


@pytest.mark.parametrize("value", [RIGHT, RIGHT.replace("Basic", "basic"), RIGHT.replace("Basic", "BASIC ")])
def test_a_hook_with_its_app_s_credentials_is_the_backend_s_to_decide(
    gateway: RunningGateway, backend: FaultyBackend, value: str
) -> None:
    body = body_of("basic")
    assert ask(gateway, body, value).status_code == 200
    assert received_authorization(backend, body) == [value.encode()]


def test_an_upstream_s_own_credentials_go_out_in_place_of_the_hook_s(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    for app, authorization in (("basic-own", RIGHT), ("signed-own", None)):
        body = body_of(app)
        assert ask(gateway, body, authorization or wcs(body, NEW_KEY)).status_code == 200
        assert received_authorization(backend, body) == [basic(f"gateway:{OWN_PASSWORD}").encode()]


def test_an_app_that_asks_for_nothing_lets_any_authorization_go_on(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    for values in ([], ["Basic %%%"], ["Whatever it is"], ["Basic YTpi", "WCS 00"]):
        body = body_of("open")
        assert ask(gateway, body, *values).status_code == 200
        assert received_authorization(backend, body) == [value.encode() for value in values]


@pytest.mark.parametrize("app", ["basic-static", "signed-static"])
def test_even_a_verdict_without_a_backend_asks_who_it_is(
    gateway: RunningGateway, backend: FaultyBackend, app: str
) -> None:
    body = body_of(app)
    assert_unauthorized(gateway, backend, body, challenge="Basic " if app == "basic-static" else "WCS")
    assert ask(gateway, body, RIGHT if app == "basic-static" else wcs(body, NEW_KEY)).status_code == 200


def test_a_fallback_of_allow_lets_nobody_in_without_credentials(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    assert_unauthorized(gateway, backend, body_of("strict"), basic("wcs:wrong"))


def test_a_thousand_app_keys_of_one_glob_are_one_label_when_they_are_refused(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    labels = {"app": "tenant-*", "reason": "unauthorized"}
    before = gateway.metric("gateway_hooks_total", **labels)
    for number in range(50):
        assert ask(gateway, body_of(f"tenant-{number}")).status_code == 401
    assert gateway.metric("gateway_hooks_total", **labels) == before + 50
    assert "tenant-7" not in gateway.get("/metrics").text


@pytest.mark.parametrize("app", ["basic", "signed"])
def test_credentials_are_asked_for_whatever_the_method_and_the_path(gateway: RunningGateway, app: str) -> None:
    host = f"http://{gateway.hooks}"
    for path in ("/connect", "/rest/my_api/call", "/a/b/c/NewMethod", "/rest/my_api/%4fnCallEvent", "//connect?x=1"):
        answer = gateway.client.post(host + path, content=body_of(app))
        assert answer.status_code == 401, path


def test_an_unknown_app_gets_the_same_answer_whatever_credentials_it_brings(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    # The contract names unknown apps (403) and wrong credentials (401) apart; beyond that nothing may tell them apart.
    seen = len(backend.requests)
    body = body_of("nobody-s-app")
    answers = [
        ask(gateway, body, *values) for values in ([], [RIGHT], [basic("a:b")], [wcs(body, NEW_KEY)], ["x", "y"])
    ]
    assert {answer.status_code for answer in answers} == {403}
    assert len({answer.content for answer in answers}) == 1
    assert not any("www-authenticate" in answer.headers for answer in answers)
    assert len(backend.requests) == seen


def test_what_is_said_about_wrong_credentials_never_depends_on_what_was_wrong_with_them(
    gateway: RunningGateway,
) -> None:
    guesses = [basic("wcs:"), basic("wcs:wrong"), basic(f"other:{PASSWORD}"), basic(f"wcs:{PASSWORD}x"), "Basic ?"]
    answers = [ask(gateway, body_of("basic"), guess) for guess in guesses]
    assert len({answer.content for answer in answers}) == 1


# --- signatures ---


@pytest.mark.parametrize("key", [NEW_KEY, OLD_KEY])
def test_a_hook_signed_with_any_of_the_keys_goes_on_with_its_own_signature(
    gateway: RunningGateway, backend: FaultyBackend, key: str
) -> None:
    body = body_of("signed")
    assert ask(gateway, body, wcs(body, key)).status_code == 200
    assert received_authorization(backend, body) == [wcs(body, key).encode()]


def test_a_signature_s_hex_may_have_any_case(gateway: RunningGateway) -> None:
    body = body_of("signed")
    scheme, digits = wcs(body, NEW_KEY).split()
    assert ask(gateway, body, f"{scheme.lower()} {digits.upper()}").status_code == 200


@pytest.mark.parametrize(
    "change", [lambda body: body.strip(), lambda body: body + b" ", lambda body: json.dumps(json.loads(body)).encode()]
)
def test_a_signature_is_of_the_exact_bytes_white_space_included(
    gateway: RunningGateway, backend: FaultyBackend, change: Any
) -> None:
    body = body_of("signed")
    assert_unauthorized(gateway, backend, change(body), wcs(body, NEW_KEY), challenge="WCS")


def test_a_body_in_chunks_is_verified_like_one_in_one_piece(gateway: RunningGateway, backend: FaultyBackend) -> None:
    body = body_of("signed", sdp="v=0\r\n" * 400)
    for key, status in ((NEW_KEY, 200), (BACKEND_KEY, 401)):
        pieces = (body[at : at + 700] for at in range(0, len(body), 700))
        headers = {"Authorization": wcs(body, key)}
        answer = gateway.client.post(f"{gateway.url}/OnCallEvent", content=pieces, headers=headers)
        assert answer.status_code == status
    assert received_authorization(backend, body) == [wcs(body, NEW_KEY).encode()]


def test_a_hook_with_no_signature_or_another_s_is_401(gateway: RunningGateway, backend: FaultyBackend) -> None:
    body, other = body_of("signed"), body_of("signed")
    right = wcs(body, NEW_KEY)
    for values in ([], [wcs(body, BACKEND_KEY)], [wcs(other, NEW_KEY)], [right, right], [right[:-1]], [RIGHT], ["WCS"]):
        assert_unauthorized(gateway, backend, body, *values, challenge="WCS")


def test_a_hook_is_signed_anew_so_that_a_backend_with_its_own_key_agrees(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    for key in (NEW_KEY, OLD_KEY):
        body = body_of("signed-anew")
        assert ask(gateway, body, wcs(body, key)).status_code == 200
        assert received_authorization(backend, body) == [wcs(body, BACKEND_KEY).encode()]
    body = body_of("signed-anew")
    assert_unauthorized(gateway, backend, body, wcs(body, BACKEND_KEY), challenge="WCS")


def test_in_mode_pass_the_signature_is_the_backend_s_to_check(gateway: RunningGateway, backend: FaultyBackend) -> None:
    for value, status in ((wcs(b"another body", BACKEND_KEY), 403), (None, 200), ("", 403)):
        body = body_of("passed")
        sent = wcs(body, BACKEND_KEY) if value is None else value
        assert ask(gateway, body, sent).status_code == status
        assert received_authorization(backend, body) == [sent.encode()]


def test_in_mode_pass_with_a_key_for_the_backend_every_hook_is_signed_anew(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    for values in ([], ["WCS 00"], [RIGHT, RIGHT]):
        body = body_of("passed-anew")
        assert ask(gateway, body, *values).status_code == 200
        assert received_authorization(backend, body) == [wcs(body, BACKEND_KEY).encode()]


def test_naming_the_authorization_hop_by_hop_changes_nothing_about_who_is_let_in(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    headers = {"Connection": "keep-alive, authorization"}
    body = body_of("signed-anew")
    assert gateway.hook(body=body, headers=headers).status_code == 401
    answer = gateway.hook(body=body, headers={**headers, "Authorization": wcs(body, NEW_KEY)})
    assert answer.status_code == 200
    assert received_authorization(backend, body) == [wcs(body, BACKEND_KEY).encode()]


def test_a_reload_changes_keys_and_passwords_at_once(backend: FaultyBackend, tmp_path: Path) -> None:
    def config(key: str, password: str) -> str:
        return json.dumps(
            {
                "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
                "defaults": {"dedupe": "off"},
                "apps": {
                    "signed": {"static": "allow", "signature": {"keys": [key]}},
                    "basic": {"static": "allow", "credentials": {"username": "u", "password": password}},
                },
            }
        )

    with running_gateway(config("first", "one"), tmp_path) as gateway:
        body = body_of("signed")
        assert ask(gateway, body, wcs(body, "first")).status_code == 200
        assert ask(gateway, body_of("basic"), basic("u:one")).status_code == 200
        gateway.reload(config("second", "two"))
        assert [ask(gateway, body, wcs(body, key)).status_code for key in ("first", "second")] == [401, 200]
        assert [ask(gateway, body_of("basic"), basic(f"u:{word}")).status_code for word in ("one", "two")] == [401, 200]


def test_no_secret_is_in_the_log_the_metrics_or_the_shown_configuration(gateway: RunningGateway) -> None:
    body = body_of("signed")
    used = [RIGHT, basic(f"gateway:{OWN_PASSWORD}"), wcs(body, NEW_KEY), wcs(body, BACKEND_KEY), basic("wcs:guessed")]
    answers = [ask(gateway, body, value) for value in used]
    answers += [ask(gateway, body_of("basic"), value) for value in used]
    for answer in answers:
        assert gateway.access_line(answer.headers["x-request-id"])
    pages = [gateway.log.read_text(), gateway.get("/metrics").text, gateway.get("/api/config").text]
    pages += [answer.text for answer in answers if answer.status_code != 200]
    for secret in (*SECRETS, *(value.split()[1] for value in used), "guessed"):
        assert not any(secret in page for page in pages), secret


# --- addresses ---


def config_for(listen: list[str], allow_from: list[str], backend: FaultyBackend) -> str:
    return json.dumps(
        {
            "server": {"listen": listen, "admin": "127.0.0.1:0", "allow_from": allow_from},
            "defaults": {"timeout": "10s", "dedupe": "off"},
            "upstreams": {"u": {"url": backend.url_of("ok"), "breaker": "off"}},
            "apps": {"defaultApp": {"upstream": "u"}},
        }
    )


def raw_hook() -> bytes:
    body = body_of("defaultApp")
    head = f"POST /rest/my_api/OnCallEvent HTTP/1.1\r\nHost: gateway\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@contextlib.contextmanager
def connected(host: str, port: int) -> Iterator[tuple[socket.socket, BinaryIO]]:
    with socket.create_connection((host, port), timeout=20) as sock, sock.makefile("rb") as stream:
        yield sock, stream


def answer_to_hook(host: str, port: int) -> Answer:
    with connected(host, port) as (sock, stream):
        sock.sendall(raw_hook())
        return read_answer(stream)


def port_of(gateway: RunningGateway, listener: int = 0) -> int:
    ready = gateway.wait_for_line(lambda line: line.get("event") == "ready")
    return int(ready["hooks"][listener].rpartition(":")[2])


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 on loopback")


@pytest.fixture(scope="module")
def closed(backend: FaultyBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway that takes hooks from nobody."""
    with running_gateway(config_for(["127.0.0.1:0"], NOBODY, backend), tmp_path_factory.mktemp("closed")) as running:
        yield running


def test_a_peer_on_loopback_is_refused_where_the_list_lacks_it(closed: RunningGateway, backend: FaultyBackend) -> None:
    labels = {"app": "_unknown", "verdict": "reject", "reason": "unauthorized"}
    before = closed.metric("gateway_hooks_total", **labels)
    seen = len(backend.requests)
    answer = answer_to_hook("127.0.0.1", port_of(closed))
    assert answer.status == 403
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["proxy-status"].startswith("gateway; error=http_request_denied")
    assert answer.headers["connection"] == "close"
    assert "address" in answer.detail
    line = closed.access_line(answer.headers["x-request-id"])
    assert (line["status"], line["reason"], line["app"], line["verdict"]) == (
        403, "unauthorized", "_unknown", "reject",
    )  # fmt: skip
    assert closed.metric("gateway_hooks_total", **labels) == before + 1
    assert len(backend.requests) == seen
    assert closed.get("/-/ready").status_code == 200  # the admin port has rules of its own


def test_a_peer_that_may_not_ask_learns_nothing_else_from_the_gateway(closed: RunningGateway) -> None:
    for raw in (
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"x",
        b"POST /OnCallEvent HTTP/9.9\r\n\r\n",
        b"POST /OnCallEvent HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\nContent-Length: 0\r\n\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + raw_hook(),
    ):
        answer = closed.send(raw)
        assert (answer.status, answer.detail) == (403, "hooks are not taken from this address")


@needs_ipv6
def test_each_family_has_its_own_networks_also_on_a_listener_that_takes_both(
    backend: FaultyBackend, tmp_path: Path
) -> None:
    listen = ["127.0.0.1:0", "[::1]:0", ":0"]
    with running_gateway(config_for(listen, ["127.0.0.0/8"], backend), tmp_path) as gateway:
        plain, six, both = (port_of(gateway, listener) for listener in range(3))
        peers = [("127.0.0.1", plain), ("::1", six), ("127.0.0.1", both), ("::1", both)]
        # An IPv4 peer shows up as ::ffff:127.0.0.1 on the last listener.
        for allow_from, expected in (
            (["127.0.0.0/8"], [200, 403, 200, 403]),
            (["::1"], [403, 200, 403, 200]),
            (["::ffff:127.0.0.1"], [200, 403, 200, 403]),
            (["::/0"], [403, 200, 403, 200]),
            (["127.0.0.1", "::1"], [200, 200, 200, 200]),
            ([*NOBODY, "2001:db8::/32"], [403, 403, 403, 403]),
            ([], [200, 200, 200, 200]),
        ):
            gateway.reload(config_for(listen, allow_from, backend))
            assert [answer_to_hook(*peer).status for peer in peers] == expected, allow_from


def test_a_reloaded_list_applies_to_connections_that_are_open(backend: FaultyBackend, tmp_path: Path) -> None:
    listen = ["127.0.0.1:0"]
    with running_gateway(config_for(listen, [], backend), tmp_path) as gateway:
        port = port_of(gateway)
        with connected("127.0.0.1", port) as (sock, stream), connected("127.0.0.1", port) as (idle, idle_stream):
            sock.sendall(raw_hook())
            assert read_answer(stream).status == 200
            gateway.reload(config_for(listen, NOBODY, backend))
            seen = len(backend.requests)
            for one, its_stream in ((sock, stream), (idle, idle_stream)):
                one.sendall(raw_hook())
                answer = read_answer(its_stream)
                assert (answer.status, answer.headers["connection"]) == (403, "close")
                assert its_stream.read() == b""
            assert len(backend.requests) == seen
        gateway.reload(config_for(listen, ["127.0.0.1"], backend))
        assert answer_to_hook("127.0.0.1", port).status == 200


def test_refused_peers_leave_nothing_behind(closed: RunningGateway) -> None:
    descriptors = Path(f"/proc/{closed.pid}/fd")
    if not descriptors.exists():
        pytest.skip("this system does not show a process's descriptors")
    closed.get("/-/ready")
    before = len(list(descriptors.iterdir()))
    for _ in range(30):
        assert answer_to_hook("127.0.0.1", port_of(closed)).status == 403
    assert wait_until(lambda: len(list(descriptors.iterdir())) <= before)
