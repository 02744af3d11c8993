"""Handshakes that fail are counted and reported; revoked trust ends the connections that it allowed."""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import ssl
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.faulty import Certificates, FaultyBackend, gated_case, make_certificates
from tests.support.gateways import RunningGateway, read_answer, running_gateway, wait_until
from tests.support.secured import HANDSHAKE_LIMIT, HOOK, IMPATIENT, Files, client, config, hang_up, is_served, secured

VERSIONS: Final = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
PATIENCE: Final = 10.0
REFUSED_AT_ONCE: Final = 64
"""Connections beyond max_connections that are rejected over TLS."""
Failing = Callable[[RunningGateway, Certificates, Certificates], None]


def only(version: ssl.TLSVersion, context: ssl.SSLContext) -> ssl.SSLContext:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the old versions, where they are what is tried
        context.minimum_version = context.maximum_version = version
    return context


def failures(gateway: RunningGateway, **labels: str) -> float:
    return gateway.metric("gateway_tls_handshake_failures_total", **labels)


def told(gateway: RunningGateway) -> list[dict[str, Any]]:
    return [line for line in gateway.lines() if line.get("event") == "tls_handshake_failed"]


# --- what is reported of a failed handshake ---


def with_certificate(version: ssl.TLSVersion, choose: Callable[[Certificates, Certificates], Any]) -> Failing:
    def fail(gateway: RunningGateway, ours: Certificates, theirs: Certificates) -> None:
        assert not is_served(gateway, only(version, client(ours, choose(ours, theirs))))

    return fail


def distrusting(version: ssl.TLSVersion) -> Failing:
    def fail(gateway: RunningGateway, ours: Certificates, theirs: Certificates) -> None:
        assert not is_served(gateway, only(version, client(theirs, ours.client)))

    return fail


def too_old(gateway: RunningGateway, ours: Certificates, theirs: Certificates) -> None:
    if not ssl.HAS_TLSv1_1:
        pytest.skip("this OpenSSL cannot speak TLS 1.1 at all")
    context = client(ours, ours.client)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    assert not is_served(gateway, only(ssl.TLSVersion.TLSv1_1, context))


def without_a_common_cipher(gateway: RunningGateway, ours: Certificates, theirs: Certificates) -> None:
    context = only(ssl.TLSVersion.TLSv1_2, client(ours, ours.client))
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA")  # the gateway's key is not of that kind
    assert not is_served(gateway, context)


def sending(data: bytes, *, and_leaving: bool = False) -> Failing:
    def fail(gateway: RunningGateway, ours: Certificates, theirs: Certificates) -> None:
        with gateway.connect() as sock, contextlib.suppress(ConnectionError):
            sock.sendall(data)
            while not and_leaving and sock.recv(4096):
                pass

    return fail


FAILING: Final[dict[str, tuple[str, str, Failing]]] = {
    **{
        f"{what}, {version.name}": (reason, words, fail)
        for version in VERSIONS
        for what, reason, words, fail in (
            ("no certificate", "no_certificate", "did not return", with_certificate(version, lambda a, b: None)),
            (
                "another authority's",
                "untrusted_certificate",
                "issuer",
                with_certificate(version, lambda a, b: b.client),
            ),
            ("self-signed", "untrusted_certificate", "self", with_certificate(version, lambda a, b: a.self_signed)),
            ("expired", "expired_certificate", "expired", with_certificate(version, lambda a, b: a.expired)),
            ("distrusts us", "refused_by_client", "unknown ca", distrusting(version)),
        )
    },
    "TLS 1.1": ("protocol_version", "unsupported protocol", too_old),
    "no common cipher": ("other", "no shared cipher", without_a_common_cipher),
    "HTTP": ("not_tls", "http request", sending(HOOK)),
    "SSH": ("not_tls", "wrong version", sending(b"SSH-2.0-OpenSSH\r\n")),
    "zeros": ("not_tls", "wrong version", sending(bytes(5000))),
    "SSLv2": ("not_tls", "mismatch", sending(b"\x80\x2e\x01\x00\x02" + bytes(100))),
    "half a hello": ("timeout", f"within {HANDSHAKE_LIMIT} s", sending(b"\x16\x03\x01\x02")),
}


@pytest.mark.parametrize("what", FAILING)
def test_a_failed_handshake_is_counted_and_told_with_its_peer_and_reason(
    mutual: RunningGateway, ours: Certificates, theirs: Certificates, what: str
) -> None:
    reason, words, fail = FAILING[what]
    counted, lines = failures(mutual, reason=reason), len(told(mutual))
    fail(mutual, ours, theirs)
    assert wait_until(lambda: failures(mutual, reason=reason) == counted + 1)
    assert wait_until(lambda: len(told(mutual)) > lines)
    (line,) = told(mutual)[lines:]
    assert (line["level"], line["reason"]) == ("warning", reason)
    assert words in line["error"]
    host, _, port = line["peer"].rpartition(":")
    assert host == "127.0.0.1"
    assert 0 < int(port) < 65536
    assert line["peer"] in line["message"]


def test_a_client_that_leaves_amid_the_handshake_is_counted_only(mutual: RunningGateway, ours: Certificates) -> None:
    counted, lines = failures(mutual, reason="closed"), len(told(mutual))
    for data in (b"", b"\x16\x03\x01"):  # as port scans and health checks do
        sending(data, and_leaving=True)(mutual, ours, ours)
    assert wait_until(lambda: failures(mutual, reason="closed") == counted + 2)
    assert len(told(mutual)) == lines


def test_a_handshake_that_succeeds_is_no_failure(mutual: RunningGateway, ours: Certificates) -> None:
    counted = failures(mutual)
    for version in VERSIONS:
        assert is_served(mutual, only(version, client(ours, ours.client)))
    assert failures(mutual) == counted


def test_a_flood_of_refused_handshakes_is_counted_whole_and_told_of_twenty_times(
    ours: Certificates, tmp_path: Path
) -> None:
    with running_gateway(config(Files(tmp_path, ours.valid).section), tmp_path) as gateway:
        for _ in range(500):
            sending(b"noise\r\n\r\n", and_leaving=True)(gateway, ours, ours)
        assert wait_until(lambda: failures(gateway, reason="not_tls") == 500)
        assert not is_served(gateway, client(make_certificates_of_nobody(tmp_path)))
        assert is_served(gateway, client(ours))
        # A flood of one kind hides no other.
        gateway.wait_for_line(lambda line: line.get("reason") == "refused_by_client")
        assert sum(line["reason"] == "not_tls" for line in told(gateway)) <= 20


def make_certificates_of_nobody(directory: Path) -> Certificates:
    (directory / "nobody").mkdir()
    return make_certificates(directory / "nobody")


@pytest.mark.parametrize("workers", [1, 2])
def test_the_failures_of_all_workers_are_one_metric_with_every_reason_from_the_start(
    ours: Certificates, tmp_path: Path, workers: int
) -> None:
    with running_gateway(config(Files(tmp_path, ours.valid).section, workers), tmp_path) as gateway:
        text = gateway.get("/metrics").text
        for reason in ("no_certificate", "not_tls", "timeout", "too_many"):
            assert f'gateway_tls_handshake_failures_total{{reason="{reason}"}} 0' in text
        for _ in range(12):
            sending(HOOK)(gateway, ours, ours)
        # A worker's own figures are there at the next scrape after it has counted.
        assert wait_until(lambda: failures(gateway, reason="not_tls") == 12)


def test_over_a_unix_socket_the_peer_is_called_so(ours: Certificates, tmp_path: Path) -> None:
    path = tmp_path / "hooks.sock"
    text = config(Files(tmp_path, ours.valid).section, listen=f"unix:{path}")
    with running_gateway(text, tmp_path) as gateway, socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(path))
        sock.sendall(HOOK)
        with contextlib.suppress(ConnectionError):
            assert sock.recv(4096) == b""
        assert gateway.wait_for_line(lambda line: line.get("reason") == "not_tls")["peer"] == "unix"


# --- between handshake and hook ---


@pytest.mark.parametrize("version", VERSIONS)
def test_a_hook_that_comes_together_with_the_handshake_s_last_message_is_answered(
    mutual: RunningGateway, ours: Certificates, version: ssl.TLSVersion
) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = only(version, client(ours, ours.client)).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with mutual.connect() as sock:

        def step(what: Callable[[], Any], *, send: bool = True) -> Any:
            while True:
                try:
                    return what()
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    incoming.write(sock.recv(65536))

        step(tls.do_handshake)
        tls.write(HOOK)
        sock.sendall(outgoing.read())  # with TLS 1.3, Finished and the hook go out as one
        answer = step(lambda: tls.read(65536))
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_handshake_under_way_when_the_gateway_is_told_to_stop_ends_with_its_hook_answered(
    ours: Certificates, tmp_path: Path
) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = only(ssl.TLSVersion.TLSv1_2, client(ours)).wrap_bio(incoming, outgoing, server_hostname="localhost")
    text = config(Files(tmp_path, ours.valid).section, read_timeout="20s", drain_timeout="10s")
    with running_gateway(text, tmp_path) as gateway, gateway.connect() as sock:
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        sock.sendall(outgoing.read())
        incoming.write(sock.recv(65536))
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.wait_for_line(lambda line: "stopping" in line.get("message", ""))
        # As long as it would have taken to end with nothing left to do.
        assert not wait_until(lambda: gateway.process.poll() is not None, 0.5)
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        sock.sendall(outgoing.read())
        incoming.write(sock.recv(65536))
        tls.do_handshake()
        tls.write(HOOK)
        sock.sendall(outgoing.read())
        incoming.write(sock.recv(65536))
        answer = tls.read(65536).lower()
        assert answer.startswith(b"http/1.1 200 ")
        assert b"connection: close" in answer
        sock.close()
        assert gateway.process.wait(PATIENCE) == 0


# --- too many of them ---


def test_handshakes_under_way_are_bounded_and_their_places_come_back(ours: Certificates, tmp_path: Path) -> None:
    most, sources, each = REFUSED_AT_ONCE, 5, 20
    text = config(Files(tmp_path, ours.valid).section, max_connections=5, read_timeout="5s")
    with running_gateway(text, tmp_path) as gateway, contextlib.ExitStack() as stack:
        host, port = gateway.hooks.rsplit(":", 1)
        for source in range(2, 2 + sources):  # no address may have more than a quarter
            for _ in range(each):
                origin = (f"127.0.0.{source}", 0)
                stack.enter_context(socket.create_connection((host, int(port)), 20, source_address=origin))
        too_many = sources * each - most
        assert wait_until(lambda: failures(gateway, reason="too_many") == too_many)
        assert wait_until(lambda: failures(gateway, reason="timeout") == most)
        assert is_served(gateway, client(ours))
        assert failures(gateway, reason="too_many") == too_many


def test_a_lowered_read_timeout_holds_for_the_handshakes_to_come(ours: Certificates, tmp_path: Path) -> None:
    section = Files(tmp_path, ours.valid).section
    with running_gateway(config(section, read_timeout="60s"), tmp_path) as gateway:
        gateway.reload(config(section, read_timeout="0.5s"))
        with gateway.connect() as sock:
            sock.settimeout(20)
            assert sock.recv(1) == b""
        assert wait_until(lambda: failures(gateway, reason="timeout") == 1)


def test_one_connection_over_tls_more_than_max_connections_is_told_so(ours: Certificates, tmp_path: Path) -> None:
    text = config(Files(tmp_path, ours.valid).section, max_connections=3, read_timeout="60s")
    with running_gateway(text, tmp_path) as gateway, contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(secured(gateway, client(ours)))
        _, stream = stack.enter_context(secured(gateway, client(ours)))
        answer = read_answer(stream)
        assert (answer.status, answer.headers["connection"]) == (403, "close")
        assert "server.max_connections" in answer.detail


def test_who_meets_a_gateway_without_descriptors_waits_and_is_served(ours: Certificates, tmp_path: Path) -> None:
    with running_gateway(config(Files(tmp_path, ours.valid).section), tmp_path) as gateway:
        assert is_served(gateway, client(ours))
        soft, hard = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (3, hard))
        with gateway.connect() as plain:
            line = gateway.wait_for_line(lambda line: "no connection can be accepted" in line.get("message", ""))
            assert line["level"] == "error"
            resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (soft, hard))
            with client(ours).wrap_socket(plain, server_hostname="localhost") as sock, sock.makefile("rb") as stream:
                sock.sendall(HOOK)
                assert read_answer(stream).status == 200


# --- trust that is taken back ---


def is_closed(sock: socket.socket) -> bool:
    """Whether the other side has ended the connection, or does before the socket's own timeout."""
    try:
        return sock.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


@pytest.mark.parametrize("version", VERSIONS)
def test_connections_made_before_client_ca_changed_end_after_their_answer(
    ours: Certificates, theirs: Certificates, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    files = Files(tmp_path, ours.valid, ours.ca)
    assert files.client_ca is not None
    old, new = only(version, client(ours, ours.client)), only(version, client(ours, theirs.client))
    with gated_case() as opened, FaultyBackend() as backend, contextlib.ExitStack() as stack:
        text = config(files.section, backend=backend, case="gated", read_timeout="20s")
        gateway = stack.enter_context(running_gateway(text, tmp_path))
        (idle, _), (asking, answers), (reading, later_answers) = (
            stack.enter_context(secured(gateway, old)) for _ in range(3)
        )
        asking.sendall(HOOK)
        assert backend.wait_for_requests(1, "gated", within=PATIENCE)
        reading.sendall(HOOK[:-5])
        files.put(theirs.ca.read_bytes(), files.client_ca)
        hang_up(gateway)
        later, later_stream = stack.enter_context(secured(gateway, new))
        opened.set()
        answer = read_answer(answers)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        reading.sendall(HOOK[-5:])
        answer = read_answer(later_answers)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        for sock in (idle, asking, reading):
            sock.settimeout(PATIENCE)
            assert is_closed(sock)
        for _ in range(2):  # those that came after the change stay
            later.sendall(HOOK)
            answer = read_answer(later_stream)
            assert answer.status == 200
            assert answer.headers.get("connection") != "close"
        assert not is_served(gateway, old)


def test_a_handshake_that_began_before_client_ca_changed_makes_no_lasting_connection(
    ours: Certificates, theirs: Certificates, tmp_path: Path
) -> None:
    files = Files(tmp_path, ours.valid, ours.ca)
    assert files.client_ca is not None
    context = only(ssl.TLSVersion.TLSv1_2, client(ours, ours.client))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with running_gateway(config(files.section, read_timeout="20s"), tmp_path) as gateway, gateway.connect() as sock:
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        sock.sendall(outgoing.read())
        incoming.write(sock.recv(65536))  # it has begun, by the old file
        files.put(theirs.ca.read_bytes(), files.client_ca)
        hang_up(gateway)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        tls.write(HOOK)
        sock.sendall(outgoing.read())
        sock.settimeout(PATIENCE)
        received = b""
        while data := sock.recv(65536):  # up to the end of the connection
            incoming.write(data)
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                received += tls.read(65536)
        assert b"connection: close" in received.lower()


def test_a_client_ca_that_is_written_anew_with_the_same_content_ends_nothing(
    ours: Certificates, tmp_path: Path
) -> None:
    files = Files(tmp_path, ours.valid, ours.ca)
    assert files.client_ca is not None
    with (
        running_gateway(config(files.section, read_timeout="20s"), tmp_path) as gateway,
        secured(gateway, client(ours, ours.client)) as (sock, stream),
    ):
        files.put(ours.ca.read_bytes(), files.client_ca)
        hang_up(gateway)
        for _ in range(2):
            sock.sendall(HOOK)
            answer = read_answer(stream)
            assert answer.status == 200
            assert answer.headers.get("connection") != "close"


# --- without being told ---


def test_changed_files_are_seen_without_a_reload_and_broken_ones_are_told_of_once(
    ours: Certificates, theirs: Certificates, tmp_path: Path
) -> None:
    files = Files(tmp_path, ours.valid, ours.ca)
    assert files.client_ca is not None
    with running_gateway(config(files.section), tmp_path, program=IMPATIENT) as gateway:

        def broken() -> int:
            return sum("server.tls: the changed files cannot be used" in line["message"]
                       for line in gateway.lines() if "message" in line)  # fmt: skip

        files.put(b"no certificate", files.client_ca)
        assert wait_until(lambda: broken() == 1)
        assert is_served(gateway, client(ours, ours.client))
        files.client_ca.unlink()
        assert wait_until(lambda: broken() == 2)
        assert not wait_until(lambda: broken() != 2, 0.5)  # several looks
        files.put(theirs.ca.read_bytes(), files.client_ca)
        assert wait_until(lambda: is_served(gateway, client(ours, theirs.client)))
        assert not is_served(gateway, client(ours, ours.client))
