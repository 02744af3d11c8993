"""A real HAProxy in front says who the client is: PROXY headers of both versions, before TLS, and X-Forwarded-For."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from tests.deploy.test_balancers import is_up, pair
from tests.support.faulty import Certificates
from tests.support.gateways import Answer, RunningGateway, read_answer, running_gateway, wait_until
from tests.support.programs import Balancer, haproxy_by
from tests.support.secured import client as tls_client

pytestmark = pytest.mark.real

MEDIA: Final = "127.0.0.9"
STRANGER: Final = "127.0.0.8"
HOOK: Final = b'POST /OnCallEvent HTTP/1.1\r\nHost: gw\r\nContent-Length: 23\r\n\r\n{"appKey":"defaultApp"}'

CONFIGURATION: Final = """
global
    log stdout format raw local0
    stats socket {directory}/admin.sock mode 600 level admin
defaults
    mode {mode}
    log global
    timeout client 20s
    timeout server 20s
    timeout connect 5s
frontend hooks
    bind 127.0.0.1:{port}
    bind ::1:{port}
    default_backend gateways
backend gateways
    {option}
    server gateway {gateway} check inter 200ms rise 1 {words}
"""
TLS_ITSELF: Final = "ssl verify none"


def config(*, tls: tuple[Path, Path] | None = None, **server: Any) -> str:
    server = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "allow_from": [MEDIA, "::1"], **server}
    if tls is not None:
        server["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    return json.dumps({"server": server, "apps": {"defaultApp": {"static": "allow"}}})


@contextlib.contextmanager
def balanced(gateway: RunningGateway, words: str, *, mode: str = "tcp", option: str = "") -> Iterator[Balancer]:
    """HAProxy in front of the gateway, with these *words* on its server's line."""

    def configuration(directory: Path, port: int) -> str:
        values = {"mode": mode, "option": option, "words": words, "gateway": gateway.hooks}
        return CONFIGURATION.format(directory=directory, port=port, **values)

    with haproxy_by(configuration) as balancer:
        yield balancer


def ask(balancer: Balancer, source: str, context: ssl.SSLContext | None = None) -> Answer:
    """A hook from this address, over TLS that HAProxy passes on if there is a *context*."""
    address = (source if ":" in source else "127.0.0.1", balancer.port)
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_connection(address, 20, source_address=(source, 0)))
        if context is not None:
            sock = stack.enter_context(context.wrap_socket(sock, server_hostname="localhost"))
        sock.sendall(HOOK)
        return read_answer(stack.enter_context(sock.makefile("rb")))


def seen(gateway: RunningGateway, balancer: Balancer, context: ssl.SSLContext | None = None) -> list[tuple[int, str]]:
    """Status and client, as the gateway logs them, of hooks from a media server, a stranger, and one with IPv6."""
    answers = [ask(balancer, source, context) for source in (MEDIA, STRANGER, "::1")]
    return [(it.status, gateway.access_line(it.headers["x-request-id"])["client"]) for it in answers]


EXPECTED: Final = [(200, MEDIA), (403, STRANGER), (200, "::1")]


FORWARDS: Final = "source 127.0.0.6"
"""On the server's line: the gateway sees a proxy that is trusted."""
BOTH: Final[dict[str, Any]] = {"proxy_protocol": ["127.0.0.1"], "trusted_proxies": ["127.0.0.6", "127.0.0.7"]}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(config(**BOTH), tmp_path_factory.mktemp("balanced")) as running:
        yield running


def dropped(gateway: RunningGateway) -> float:
    return gateway.metric("gateway_dropped_connections_total", reason="proxy_header")


def test_the_client_that_haproxy_names_is_the_one_that_is_judged(gateway: RunningGateway) -> None:
    before = dropped(gateway)
    for words in (
        "send-proxy check-send-proxy",
        "send-proxy-v2 check-send-proxy",
        "send-proxy-v2 check-send-proxy proxy-v2-options crc32c,unique-id,authority",
        "send-proxy-v2",
    ):
        with balanced(gateway, words) as balancer:
            # A health check brings a header that names nobody; one without is closed, and no fault either.
            assert wait_until(partial(is_up_in, balancer)), words
            assert seen(gateway, balancer) == EXPECTED, words
    assert dropped(gateway) == before
    with balanced(gateway, "") as balancer, pytest.raises(AssertionError):
        ask(balancer, MEDIA)  # no header: closed without an answer
    assert wait_until(lambda: dropped(gateway) == before + 1)


def is_up_in(balancer: Balancer) -> bool:
    figures = balancer.figures("gateways", "gateway")
    return figures["status"] == "UP" and figures["check_status"] == "L4OK"


def test_the_header_comes_before_tls_that_is_passed_on_or_begun_by_haproxy(tmp_path: Path, ours: Certificates) -> None:
    with running_gateway(config(tls=ours.valid, **BOTH), tmp_path) as gateway:
        for words in ("send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c"):
            with balanced(gateway, words) as balancer:
                assert seen(gateway, balancer, tls_client(ours)) == EXPECTED, words
            with balanced(gateway, f"{words} {TLS_ITSELF}", mode="http") as balancer:
                assert seen(gateway, balancer) == EXPECTED, words
        assert dropped(gateway) == 0


@pytest.mark.parametrize("option", ["option forwardfor", "option forwardfor\n    http-reuse always"])
def test_haproxy_s_x_forwarded_for_names_the_client_of_each_hook(gateway: RunningGateway, option: str) -> None:
    with balanced(gateway, FORWARDS, mode="http", option=option) as balancer:
        assert seen(gateway, balancer) == EXPECTED


def test_both_headers_together_name_the_client_behind_two_proxies(gateway: RunningGateway) -> None:
    with balanced(gateway, "send-proxy-v2") as balancer:
        for value, status in ((MEDIA, 200), (STRANGER, 403), (f"{MEDIA}, {STRANGER}", 403), (f"x, {MEDIA}", 200)):
            with socket.create_connection(("127.0.0.1", balancer.port), 20, source_address=("127.0.0.7", 0)) as sock:
                sock.sendall(HOOK.replace(b"Host: gw", f"Host: gw\r\nX-Forwarded-For: {value}".encode()))
                with sock.makefile("rb") as stream:
                    assert read_answer(stream).status == status, value


def test_by_the_configuration_that_we_give_away_allow_from_judges_the_media_server(tmp_path: Path) -> None:
    text = config(trusted_proxies=["127.0.0.1"])
    with pair(tmp_path, text) as (balancer, gateways):
        for server in gateways:
            assert wait_until(partial(is_up, balancer, server))
        for source, status in ((MEDIA, 200), (STRANGER, 403)) * 4:  # by both gateways
            answer = ask(balancer, source)
            assert answer.status == status
            assert wait_until(partial(client_in_log, gateways.values(), answer)) == source


def client_in_log(gateways: Iterable[RunningGateway], answer: Answer) -> str | None:
    """The client of the hook with this answer, by the log of the gateway that gave it."""
    lines = (line for gateway in gateways for line in gateway.access_lines())
    return next((line["client"] for line in lines if line["request_id"] == answer.headers["x-request-id"]), None)
