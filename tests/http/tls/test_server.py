"""TLS on the hook port: who gets through the handshake, and how certificates are renewed under way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.server.workers.processes import OUTAGE
from tests.support.faulty import Certificates, FaultyBackend, right_answer, tls_backend
from tests.support.gateways import RunningGateway, read_answer, running_gateway, wait_until
from tests.support.secured import (
    BODY,
    HANDSHAKE_LIMIT,
    HOOK,
    Files,
    answer_over_tls,
    client,
    config,
    hang_up,
    is_served,
    secured,
)

PATIENCE: Final = 10.0


@pytest.fixture(scope="module")
def files(ours: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"), ours.valid)


@pytest.fixture(scope="module")
def backend() -> Iterator[FaultyBackend]:
    with FaultyBackend() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(files: Files, backend: FaultyBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Asks for no client certificates."""
    text = config(files.section, backend=backend)
    with running_gateway(text, tmp_path_factory.mktemp("gateway")) as running:
        yield running


def serial_shown(gateway: RunningGateway, *trusted: Certificates) -> str:
    """The serial number of the certificate that a new connection gets to see."""
    for certificates in trusted:
        with contextlib.suppress(ssl.SSLCertVerificationError), secured(gateway, client(certificates)) as (sock, _):
            certificate = sock.getpeercert()
            assert certificate is not None
            return str(certificate["serialNumber"])
    raise AssertionError("a certificate that nobody trusts")


def serial_of(certificate: Path) -> str:
    decoded = ssl._ssl._test_decode_cert(str(certificate))  # type: ignore[attr-defined]
    return str(decoded["serialNumber"])


# --- the handshake ---


def test_a_hook_over_tls_is_decided_like_any_other(gateway: RunningGateway, ours: Certificates) -> None:
    with secured(gateway, client(ours)) as (sock, stream):
        for _ in range(3):
            sock.sendall(HOOK)
            answer = read_answer(stream)
            assert (answer.status, answer.body) == (200, right_answer(BODY))
        assert sock.version() in ("TLSv1.2", "TLSv1.3")


def test_http_1_1_is_all_that_is_offered(gateway: RunningGateway, ours: Certificates) -> None:
    context = client(ours)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with secured(gateway, context) as (sock, _):
        assert sock.selected_alpn_protocol() == "http/1.1"


def test_the_backend_is_told_that_the_hook_came_over_https(
    gateway: RunningGateway, backend: FaultyBackend, ours: Certificates
) -> None:
    assert answer_over_tls(gateway, client(ours)).status == 200
    assert backend.requests[-1].values("x-forwarded-proto") == [b"https"]


def test_the_certificate_proves_the_gateway_to_who_trusts_its_authority_and_to_nobody_else(
    gateway: RunningGateway, ours: Certificates, theirs: Certificates
) -> None:
    assert is_served(gateway, client(ours))
    with pytest.raises(ssl.SSLCertVerificationError), secured(gateway, client(theirs)):
        pass
    assert is_served(gateway, client(ours))


def spoken(gateway: RunningGateway, trusted: Certificates) -> list[str]:
    """The versions in which a hook gets through, of three."""
    through = []
    for version in (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = client(trusted)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TLS 1.1, which is what is tried here
            context.minimum_version = context.maximum_version = version
        if is_served(gateway, context):
            through.append(version.name)
    return through


def test_no_version_older_than_the_minimum_is_spoken(
    gateway: RunningGateway, files: Files, ours: Certificates, tmp_path: Path
) -> None:
    assert spoken(gateway, ours) == ["TLSv1_2", "TLSv1_3"]
    with running_gateway(config({**files.section, "minimum_version": "1.3"}), tmp_path) as newer:
        assert spoken(newer, ours) == ["TLSv1_3"]


@pytest.mark.parametrize(
    "first",
    [
        HOOK,
        b"GET / HTTP/1.0\r\n\r\n",
        b"\r\n" * 100,
        b"\x00" * 5000,
        b"\x16\x03\x01\xff\xff" + b"\x00" * 20000,
        b"\x80\x2e\x01\x00\x02" + b"\x00" * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["a hook", "HTTP/1.0", "empty lines", "zeros", "a huge record", "SSLv2", "HTTP/2"],
)
def test_what_is_no_tls_is_closed_without_a_word_of_http(
    gateway: RunningGateway, ours: Certificates, first: bytes
) -> None:
    with gateway.connect() as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(first)
        received = b""
        with contextlib.suppress(ConnectionError):
            while piece := sock.recv(4096):
                received += piece
    assert b"HTTP" not in received
    assert b"defaultApp" not in received
    assert is_served(gateway, client(ours))


def test_a_tls_hello_on_the_plain_port_is_400(tmp_path: Path, ours: Certificates) -> None:
    with running_gateway(config(None), tmp_path) as gateway:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        hello = client(ours).wrap_bio(incoming, outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            hello.do_handshake()
        answer = gateway.send(outgoing.read())
        assert answer.status == 400
        assert gateway.hook().status_code == 200


# --- client certificates ---


def test_who_has_a_certificate_of_the_client_ca_is_let_in(mutual: RunningGateway, ours: Certificates) -> None:
    assert is_served(mutual, client(ours, ours.client))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("kind", ["none", "another authority", "expired", "self-signed"])
def test_who_has_none_or_a_wrong_one_is_not(
    mutual: RunningGateway, ours: Certificates, theirs: Certificates, kind: str, version: ssl.TLSVersion
) -> None:
    pair = {
        "none": None, "another authority": theirs.client, "expired": ours.expired, "self-signed": ours.self_signed,
    }[kind]  # fmt: skip
    context = client(ours, pair)
    context.minimum_version = context.maximum_version = version
    hooks = mutual.metric("gateway_hooks_total")
    assert not is_served(mutual, context)
    assert is_served(mutual, client(ours, ours.client))
    assert mutual.metric("gateway_hooks_total") == hooks + 1


# --- handshakes that hang ---


def test_a_handshake_that_hangs_holds_nobody_up_and_has_its_limit(
    files: Files, ours: Certificates, tmp_path: Path
) -> None:
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # the first bytes of a ClientHello
    with (
        running_gateway(config(files.section, read_timeout=f"{HANDSHAKE_LIMIT}s"), tmp_path) as gateway,
        contextlib.ExitStack() as stack,
    ):
        hanging = [stack.enter_context(gateway.connect()) for _ in range(40)]
        for number, sock in enumerate(hanging):
            sock.sendall(hello[: number % len(hello)])
        for _ in range(5):
            assert is_served(gateway, client(ours))
        deadline = time.monotonic() + PATIENCE
        for sock in hanging:
            sock.settimeout(max(0.1, deadline - time.monotonic()))
            with contextlib.suppress(ConnectionError):
                while sock.recv(4096):  # an alert may come before the end
                    pass
        assert is_served(gateway, client(ours))


def test_a_client_that_never_ends_its_tls_session_leaves_nothing_behind(
    gateway: RunningGateway, ours: Certificates
) -> None:
    descriptors = Path(f"/proc/{gateway.pid}/fd")
    if not descriptors.exists():
        pytest.skip("this system does not show a process's descriptors")
    gateway.get("/-/ready")
    assert wait_until(lambda: gateway.get("/-/ready").status_code == 200)
    before = len(list(descriptors.iterdir()))
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            sock, stream = stack.enter_context(secured(gateway, client(ours)))
            sock.sendall(b"no HTTP at all\r\n\r\n")
            assert read_answer(stream).status == 400
        # Refused and closed from this side; the clients' sockets stay open and silent.
        assert wait_until(lambda: len(list(descriptors.iterdir())) <= before, PATIENCE)


# --- renewal ---


@pytest.mark.parametrize("workers", [1, 2])
def test_a_renewed_certificate_is_in_use_after_a_hang_up_without_a_restart(
    ours: Certificates, theirs: Certificates, tmp_path: Path, workers: int
) -> None:
    files = Files(tmp_path, ours.valid)
    with running_gateway(config(files.section, workers), tmp_path) as gateway:
        pids = gateway.get("/api/status").json()["workers"]
        with secured(gateway, client(ours)) as (sock, stream):
            assert serial_shown(gateway, ours) == serial_of(ours.valid[0])
            files.install(theirs.valid)
            hang_up(gateway)
            # Enough connections that each worker is met.
            shown = {serial_shown(gateway, ours, theirs) for _ in range(12)}
            assert shown == {serial_of(theirs.valid[0])}
            sock.sendall(HOOK)  # what was open stays
            assert read_answer(stream).status == 200
        assert gateway.get("/api/status").json()["workers"] == pids
        assert len(pids) == workers


def test_while_renewed_files_are_broken_the_old_ones_stay_in_use(
    ours: Certificates, theirs: Certificates, tmp_path: Path
) -> None:
    files = Files(tmp_path, ours.valid)
    certificate, key = (file.read_bytes() for file in theirs.valid)
    with running_gateway(config(files.section), tmp_path) as gateway:
        # A renewal replaces two files, one after the other: between the two, they do not fit each other.
        for path, data in (
            (files.certificate, certificate),
            (files.key, key),
            (files.certificate, certificate[:300]),
            (files.key, b""),
            (files.certificate, None),
        ):
            files.install(ours.valid)
            files.put(data, path) if data is not None else path.unlink()
            hang_up(gateway)
            assert serial_shown(gateway, ours) == serial_of(ours.valid[0])
            assert is_served(gateway, client(ours))
            assert gateway.metric("gateway_config_last_reload_successful") == 0
        files.install(theirs.valid)
        hang_up(gateway)
        assert serial_shown(gateway, theirs) == serial_of(theirs.valid[0])
        assert gateway.metric("gateway_config_last_reload_successful") == 1


def test_a_renewed_client_ca_counts_for_every_new_connection(
    ours: Certificates, theirs: Certificates, tmp_path: Path
) -> None:
    files = Files(tmp_path, ours.valid, ours.ca)
    assert files.client_ca is not None
    versions = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    old, new = ([client(ours, pair) for _ in versions] for pair in (ours.client, theirs.client))
    for context, version in zip([*old, *new], versions * 2, strict=True):
        context.minimum_version = context.maximum_version = version
    with running_gateway(config(files.section), tmp_path) as gateway:

        def served() -> list[bool]:
            return [is_served(gateway, context) for context in (*old, *new)]

        assert served() == [True, True, False, False]
        files.put(ours.ca.read_bytes() + theirs.ca.read_bytes(), files.client_ca)
        hang_up(gateway)
        assert served() == [True, True, True, True]
        sessions = []
        for context in old:
            with secured(gateway, context) as (sock, stream):
                sock.sendall(HOOK)
                assert read_answer(stream).status == 200
                sessions.append(sock.session)
        assert None not in sessions
        files.put(theirs.ca.read_bytes(), files.client_ca)  # and the old authority is trusted no more
        hang_up(gateway)
        assert served() == [False, False, True, True]
        for context, session in zip(old, sessions, strict=True):
            assert not is_served(gateway, context, session)  # not by a session either that began while it was


# --- how long they last ---


def test_the_days_to_each_certificate_s_expiry_are_a_metric(ours: Certificates, tmp_path: Path) -> None:
    files = Files(tmp_path, ours.valid)
    with running_gateway(config(files.section), tmp_path) as gateway:

        def days() -> float:
            return gateway.metric("gateway_certificate_days_to_expiry", certificate=str(files.certificate))

        assert 1.5 < days() <= 2  # make_certificates makes them for two days
        files.install(ours.expired)
        assert days() < 0
        files.certificate.unlink()
        assert days() == 0


def test_the_key_may_be_in_its_certificate_s_file_and_the_path_relative_to_the_configuration(
    ours: Certificates, tmp_path: Path
) -> None:
    (tmp_path / "both.pem").write_bytes(ours.valid[1].read_bytes() + ours.valid[0].read_bytes())
    with running_gateway(config({"certificate": "both.pem", "key": "both.pem"}), tmp_path) as gateway:
        assert is_served(gateway, client(ours))
        assert 1.5 < gateway.metric("gateway_certificate_days_to_expiry") <= 2


def test_refused_handshakes_do_not_flood_the_log(mutual: RunningGateway, ours: Certificates) -> None:
    before = len(mutual.lines())
    for number in range(60):
        with mutual.connect() as sock:
            sock.sendall(b"noise" * 10 if number % 2 else b"")
            if number % 3:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    assert is_served(mutual, client(ours, ours.client))
    assert wait_until(lambda: len(mutual.access_lines()) > 0)
    assert len(mutual.lines()) - before <= 30
    assert not any("exception" in line for line in mutual.lines())


@pytest.mark.parametrize("broken", ["certificate", "key"])
def test_workers_that_die_while_the_files_are_broken_are_replaced_and_serve_by_those_from_before(
    ours: Certificates, theirs: Certificates, tmp_path: Path, broken: str
) -> None:
    files = Files(tmp_path, ours.valid)
    with running_gateway(config(files.section, workers=2), tmp_path) as gateway:
        files.put(b"no PEM file at all", getattr(files, broken))
        victims = gateway.get("/api/status").json()["workers"]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: gateway.metric("gateway_worker_deaths_total") == 2, OUTAGE)
        assert wait_until(lambda: gateway.metric("gateway_workers") == 2, OUTAGE), gateway.log.read_text()
        assert not set(gateway.get("/api/status").json()["workers"]) & set(victims)
        assert {serial_shown(gateway, ours) for _ in range(12)} == {serial_of(ours.valid[0])}
        assert is_served(gateway, client(ours))
        told = "server.tls: the changed files cannot be used, the old ones stay"
        assert wait_until(lambda: sum(told in line.get("message", "") for line in gateway.lines()) >= 2)
        assert not any("exception" in line for line in gateway.lines())
        files.install(theirs.valid)
        hang_up(gateway)
        assert {serial_shown(gateway, ours, theirs) for _ in range(12)} == {serial_of(theirs.valid[0])}


def test_a_worker_that_begins_while_a_backend_s_authority_is_broken_on_the_disk_trusts_it_as_before(
    ours: Certificates, tmp_path: Path
) -> None:
    authority = tmp_path / "authority.pem"
    authority.write_bytes(ours.ca.read_bytes())
    with tls_backend(ours, "valid") as backend:
        upstreams = {"u": {"url": backend.url_of("ok"), "tls": {"ca": str(authority)}, "breaker": "off"}}
        server = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": 2}
        text = json.dumps({"server": server, "upstreams": upstreams, "apps": {"defaultApp": {"upstream": "u"}}})
        with running_gateway(text, tmp_path) as gateway:
            assert gateway.hook(callId="before").status_code == 200
            authority.write_bytes(b"")
            for pid in gateway.get("/api/status").json()["workers"]:
                os.kill(pid, signal.SIGKILL)
            assert wait_until(lambda: gateway.metric("gateway_worker_deaths_total") == 2, OUTAGE)
            assert wait_until(lambda: gateway.metric("gateway_workers") == 2, OUTAGE), gateway.log.read_text()
            assert [gateway.hook(callId=f"after-{number}").status_code for number in range(12)] == [200] * 12
