"""The faulty backend plays what it says: judged by a raw socket and an independent reading of the bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import faulty
from tests.support.faulty import (
    BAD_ANSWER,
    CASES,
    DENIED,
    ERROR_STATUS,
    OK,
    TIMEOUT,
    UNREACHABLE,
    Expected,
    FaultyBackend,
)

BODY: Final = b'{"appKey":"defaultApp","callId":"c1"}'
WINDOW: Final = 1.2
"""Seconds: the budget for which the cases' expectations are written."""
AFTERMATH: Final = 0.3
"""Seconds in which all that follows an answer has come."""
PATIENCE: Final = 10.0
ENOUGH: Final = 2 * faulty.MAX_ANSWER
MAX_HEAD: Final = 16 * 1024
MAX_FRAMING: Final = 64 * 1024
"""Bytes beside the body: llhttp itself lets a chunk extension or trailers go on for ever."""
MAX_INTERIM: Final = 10


def request_for(case: str, body: bytes = BODY, *lines: bytes) -> bytes:
    start = f"POST {faulty.BASE_PATH}/{case}/OnCallEvent HTTP/1.1".encode("ascii")
    return faulty.head(b"Host: localhost", b"Content-Length: %d" % len(body), *lines, start=start) + body


class Seen(NamedTuple):
    """What came back within the window."""

    data: bytes
    ending: str
    """open, eof or reset."""


def never(_: bytes) -> bool:
    return False


async def meet(port: int, sent: bytes, window: float = WINDOW, settled: Callable[[bytes], bool] = never) -> Seen:
    """Send, and read for *window* seconds; once what has come is *settled*, only for what may come after."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = bytearray()
    try:
        async with asyncio.timeout(window) as limit:
            writer.write(sent)
            while len(data) < ENOUGH:
                part = await reader.read(65536)
                if not part:
                    return Seen(bytes(data), "eof")
                data += part
                if settled(bytes(data)):
                    settled = never
                    limit.reschedule(asyncio.get_running_loop().time() + AFTERMATH)
        return Seen(bytes(data), "open")
    except TimeoutError:
        return Seen(bytes(data), "open")
    except ConnectionError:
        return Seen(bytes(data), "reset")
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


class Reading:
    """A second opinion: one answer read with llhttp under the contract's rules."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.body = bytearray()
        self.fields: list[bytes] = []
        self.status: int | None = None
        self.interim = 0
        self.complete = False
        self.broken = False
        self.left_over = False
        self.keep_alive = False
        self.parser = httptools.HttpResponseParser(self)
        for at in range(0, len(seen.data), 1024):
            if not (self.complete or self.broken):
                self._feed(seen.data[at : at + 1024], at)
            elif self.complete:
                self.left_over = True
        self._finish()

    def _finish(self) -> None:
        """An answer with neither length nor chunks is complete when the connection ends."""
        framed = {b"content-length", b"transfer-encoding"} & set(self.fields)
        if self.seen.ending == "eof" and self.status is not None and not (self.broken or framed):
            self.complete = True

    def _feed(self, data: bytes, at: int) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.status, self.complete = 101, True
        except httptools.HttpParserError:
            self.broken, self.left_over = not self.complete, True
        consumed = at + len(data)
        limit = MAX_HEAD if self.status is None else faulty.MAX_ANSWER + MAX_FRAMING
        self.broken |= consumed > limit and not self.complete

    def on_message_begin(self) -> None:
        if self.complete:
            self.left_over = True
        self.fields.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.complete:
            return
        self.fields.append(name.lower())
        if name.lower() == b"transfer-encoding" and value.lower() != b"chunked":
            self.broken = True

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        status = self.parser.get_status_code()
        self.broken |= self.parser.get_http_version() not in ("1.0", "1.1") or len(self.fields) > 100
        self.broken |= not self.seen.data.startswith(b"HTTP/")  # llhttp takes RTSP too
        self.broken |= not 100 <= status <= 599  # RFC 9110, section 15
        if status == 101 or not 100 <= status < 200:
            self.status = status

    def on_body(self, data: bytes) -> None:
        if not self.complete:
            self.body += data
            self.broken |= len(self.body) > faulty.MAX_ANSWER

    def on_message_complete(self) -> None:
        if self.complete:
            return
        if self.status is not None:
            self.complete = True
            self.keep_alive = self.parser.should_keep_alive() and self.status != 101
        else:
            self.interim += 1
            self.broken |= self.interim > MAX_INTERIM

    @property
    def outcome(self) -> Expected:
        if self.broken:
            return BAD_ANSWER
        if not self.complete:
            return self._incomplete()
        if self.status == 200:
            return OK if is_json_object(bytes(self.body)) else BAD_ANSWER
        return DENIED if self.status == 403 else ERROR_STATUS

    def _incomplete(self) -> Expected:
        if self.seen.ending == "open":
            return TIMEOUT
        if self.seen.ending == "reset" or not self.seen.data or self.interim:
            return UNREACHABLE
        return BAD_ANSWER

    @property
    def reusable(self) -> bool:
        return (
            self.complete and not self.broken and not self.left_over
            and self.seen.ending == "open" and self.keep_alive
        )  # fmt: skip


def is_settled(data: bytes) -> bool:
    reading = Reading(Seen(data, "open"))
    return reading.complete or reading.broken


def is_json_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body.decode("utf-8"), parse_constant=refuse, parse_int=str), dict)
    except (ValueError, RecursionError):
        return False


def refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


@pytest.fixture(scope="module")
def backend() -> Iterator[FaultyBackend]:
    with FaultyBackend() as running:
        yield running


@pytest.fixture(scope="module")
def seen(backend: FaultyBackend) -> dict[str, Seen]:
    """Every case met once, on a connection of its own, forty at a time."""

    async def meet_all() -> dict[str, Seen]:
        gate = asyncio.Semaphore(40)

        async def one(name: str) -> Seen:
            hangs = TIMEOUT in CASES[name].allowed
            async with gate:
                return await meet(
                    backend.port,
                    request_for(name),
                    window=WINDOW if hangs else PATIENCE,
                    settled=never if hangs or name.startswith("endless_") else is_settled,
                )

        return dict(zip(CASES, await asyncio.gather(*map(one, CASES)), strict=True))

    return asyncio.run(meet_all())


@pytest.mark.parametrize("name", CASES)
def test_case_reads_as_its_expectation_says(name: str, seen: dict[str, Seen]) -> None:
    reading = Reading(seen[name])
    assert reading.outcome in CASES[name].allowed, seen[name].data[:300]
    if reading.outcome is OK:
        assert bytes(reading.body) == CASES[name].body(BODY)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.connections_after])
def test_connection_that_may_be_kept_is_open_and_holds_nothing(name: str, seen: dict[str, Seen]) -> None:
    assert not Reading(seen[name]).left_over
    assert seen[name].ending == "open"


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.connections_after])
def test_connection_that_must_be_closed_shows_a_reason(name: str, seen: dict[str, Seen]) -> None:
    assert not Reading(seen[name]).reusable


def test_case_has_one_sentence_and_bounded_alternatives() -> None:
    for case in CASES.values():
        assert case.doc.endswith(".")
        assert len(set(case.allowed)) == len(case.allowed) <= 3


SHAPES: Final = {
    "ok_http10": rb"HTTP/1\.0 200 OK\r\n\r\n\{.*\}",
    "half_head_close": rb"HTTP/1\.1 200 OK\r\nContent-Le",
    "trickle_head": rb"H[TP/1. 20]{0,12}",
    "length_too_small": rb".*\{.*\}HTTP/1\.1 200 OK\r\n.*of another hook\"\}",
    "length_negative": rb".*Content-Length: -\d+\r\n.*",
    "length_plus": rb".*Content-Length: \+\d+\r\n.*",
    "length_doubled_same": rb".*(Content-Length: \d+\r\n)\1.*",
    "length_list_same": rb".*Content-Length: (\d+), \1\r\n.*",
    "length_beside_chunked": rb".*Content-Length: \d+\r\nTransfer-Encoding: chunked\r\n\r\n.*0\r\n\r\n",
    "chunk_last_missing_close": rb".*[^0]\r\n\{?.*\"\}\r\n",
    "chunked_extensions": rb".*\r\na;name=value;.*",
    "interim_one": rb"HTTP/1\.1 100 Continue\r\n\r\nHTTP/1\.1 200 OK\r\n.*",
    "interim_thousand": rb"(HTTP/1\.1 100 Continue\r\n\r\n){1000}HTTP/1\.1 200 OK\r\n.*",
    "status_204": rb"HTTP/1\.1 204 Nothing\r\n\r\n",
    "redirect_302": rb"HTTP/1\.1 302 .*\r\nLocation: /rest/my_api/redirect_target/OnCallEvent\r\n.*",
    "status_500_yes": rb"HTTP/1\.1 500 .*\{\"answer\":.*",
    "body_bom": rb".*\r\n\r\n\xef\xbb\xbf\{.*",
    "body_two_objects": rb".*\}\{.*\}",
    "header_folded": rb".*\r\nX-Folded: a\r\n b\r\n.*",
    "header_nul": rb".*a\x00b\r\n.*",
    "header_bare_lf": rb"[^\r]*\n\n\{.*",
    "headers_1000": rb".*(X-Filler-\d+: \d+\r\n){1000}.*",
    "header_100_kb": rb".*X-Filler: x{100000}\r\n.*",
    "not_http_http09": rb"\{\"answer\":\"[0-9a-f]{32}\"\}",
    "ok_set_cookie": rb".*\r\nSet-Cookie: .*",
    "idle_unsolicited": rb".*\}HTTP/1\.1 200 OK\r\n.*of another hook\"\}",
    "denied": rb"HTTP/1\.1 403 Forbidden\r\n.*Content-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("name", SHAPES)
def test_case_sends_these_bytes(name: str, seen: dict[str, Seen]) -> None:
    assert re.fullmatch(SHAPES[name], seen[name].data, re.DOTALL), seen[name].data[:300]


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("endless_")])
def test_endless_case_sends_more_than_any_reader_wants(name: str, seen: dict[str, Seen]) -> None:
    assert len(seen[name].data) >= ENOUGH


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("hang", "open"), ("close_without_a_byte", "eof"), ("reset_before_body", "reset"),
        ("reset_before_answer", "reset"), ("reset_during_head", "reset"), ("reset_during_body", "reset"),
        ("reset_after_answer", "reset"), ("half_body_close", "eof"), ("half_body_silence", "open"),
    ],
)  # fmt: skip
def test_case_ends_its_connection_so(name: str, ending: str, seen: dict[str, Seen]) -> None:
    assert seen[name].ending == ending


def test_body_at_the_limit_is_exactly_the_limit() -> None:
    assert len(CASES["ok_at_limit"].body(BODY)) == faulty.MAX_ANSWER
    assert len(CASES["body_over_limit"].body(BODY)) == faulty.MAX_ANSWER + 1


async def test_request_is_recorded_as_it_came(backend: FaultyBackend) -> None:
    await meet(backend.port, request_for("ok_close", BODY, b"X-OdD: \t a  b "))
    request = backend.requests_of("ok_close")[-1]
    assert request.line == b"POST /rest/my_api/ok_close/OnCallEvent HTTP/1.1"
    assert request.headers[-1] == (b"X-OdD", b"a  b")
    assert request.values("x-odd") == [b"a  b"]
    assert (request.method, request.body, request.chunked, request.turn) == ("POST", BODY, False, 1)


@given(body=st.binary(max_size=3000), size=st.integers(1, 700))
def test_chunked_request_is_decoded_and_marked(body: bytes, size: int, backend: FaultyBackend) -> None:
    start = b"POST /rest/my_api/ok_close/Chunked HTTP/1.1"
    sent = faulty.head(b"Transfer-Encoding: chunked", start=start) + faulty.chunks(body, size)
    seen = asyncio.run(meet(backend.port, sent))
    request = backend.requests_of("ok_close")[-1]
    assert (request.body, request.chunked) == (body, True)
    assert seen.data.endswith(faulty.right_answer(body))


@pytest.mark.parametrize(
    "sent",
    [
        request_for("ok", BODY, b"Content-Length: 5"),
        request_for("ok", BODY, b"Transfer-Encoding: chunked"),
        request_for("ok", BODY, b"X-Space : 1"),
        request_for("ok").replace(b"HTTP/1.1\r\n", b"HTTP/1.1\n"),
        faulty.head(b"Transfer-Encoding: chunked", start=b"POST /a/ok/M HTTP/1.1") + b"0x5\r\nhello\r\n0\r\n\r\n",
    ],
)
async def test_ambiguous_request_is_refused_and_noted(sent: bytes) -> None:
    with FaultyBackend() as backend:
        seen = await meet(backend.port, sent)
        assert seen.data.startswith(b"HTTP/1.1 400 ")
        assert seen.ending != "open"
        assert len(backend.problems) == 1
        assert backend.requests == []


async def test_unknown_case_is_404(backend: FaultyBackend) -> None:
    seen = await meet(backend.port, request_for("no_such_case"), PATIENCE, is_settled)
    assert seen.data.startswith(b"HTTP/1.1 404 ")


def test_url_of_unknown_case_is_an_error(backend: FaultyBackend) -> None:
    assert backend.url_of("hang") == f"http://127.0.0.1:{backend.port}/rest/my_api/hang"
    with pytest.raises(KeyError):
        backend.url_of("no_such_case")


async def test_case_that_answers_early_needs_no_body(backend: FaultyBackend) -> None:
    head_alone = request_for("answer_before_body")[: -len(BODY)]
    seen = await meet(backend.port, head_alone, PATIENCE, is_settled)
    assert seen.data.endswith(faulty.right_answer(b""))
    assert not backend.requests_of("answer_before_body")[-1].complete


async def test_requests_on_one_connection_are_taken_in_turn(backend: FaultyBackend) -> None:
    before = len(backend.requests_of("ok"))
    both = request_for("ok", b"1") + request_for("ok", b"2")
    seen = await meet(backend.port, both, PATIENCE, lambda data: data.count(b'{"answer"') == 2)
    assert [seen.data.count(faulty.right_answer(body)) for body in (b"1", b"2")] == [1, 1]
    assert [request.turn for request in backend.requests_of("ok")[before:]] == [1, 2]


@pytest.mark.parametrize(
    ("name", "rest", "ending"),
    [
        ("close_after_idle", b"", "eof"), ("reset_after_idle", b"", "reset"), ("hang_after_idle", b"", "open"),
        ("half_head_after_idle", b"HTTP/1.1 2", "eof"),
    ],
)  # fmt: skip
async def test_stale_connection_answers_once(name: str, rest: bytes, ending: str, backend: FaultyBackend) -> None:
    settled = is_settled if ending == "open" else never
    seen = await meet(backend.port, request_for(name) * 2, PATIENCE, settled)
    assert seen == (faulty.reply(faulty.right_answer(BODY)) + rest, ending)


async def test_flapping_backend_alternates() -> None:
    with FaultyBackend() as backend:
        answers = [await meet(backend.port, request_for("flaps"), PATIENCE, is_settled) for _ in range(4)]
    assert [seen.data[9:12] for seen in answers] == [b"200", b"500", b"200", b"500"]


async def test_keep_alive_timeout_is_kept(backend: FaultyBackend) -> None:
    assert (await meet(backend.port, request_for("ok_keep_alive_timeout"), 5)).ending == "eof"


async def test_late_answer_does_come(backend: FaultyBackend) -> None:
    seen = await meet(backend.port, request_for("late_answer"), PATIENCE, is_settled)
    assert seen.data.endswith(faulty.right_answer(BODY))


def test_many_connections_at_once() -> None:
    async def all_at_once(port: int) -> list[Seen]:
        return await asyncio.gather(*(meet(port, request_for("ok_close", b"%d" % n), 10) for n in range(300)))

    with FaultyBackend() as backend:
        answers = asyncio.run(all_at_once(backend.port))
        assert all(seen.data.endswith(faulty.right_answer(b"%d" % n)) for n, seen in enumerate(answers))
        assert len(backend.connections_of("ok_close")) == 300
        assert backend.wait_for_connections(0, within=5)
        assert backend.problems == []


def test_open_connections_are_counted_per_case() -> None:
    with FaultyBackend() as backend, socket.create_connection(("127.0.0.1", backend.port)) as hanging:
        hanging.sendall(request_for("hang"))
        assert backend.wait_for_requests(1, "hang")
        assert backend.open_connections("hang") == 1
        assert backend.open_connections("ok") == 0
        hanging.close()
        assert backend.wait_for_connections(0, "hang")


def test_nothing_is_left_after_the_block() -> None:
    threads, descriptors = threading.enumerate(), len(os.listdir("/proc/self/fd"))
    with FaultyBackend() as backend:
        clients = [socket.create_connection(("127.0.0.1", backend.port)) for _ in range(20)]
        for client, name in zip(clients, ["hang", "endless_body", "trickle_head", "ok"] * 5, strict=True):
            client.sendall(request_for(name))
        assert all(backend.wait_for_requests(5, name) for name in ("hang", "endless_body", "trickle_head", "ok"))
    assert backend.open_connections() == 0
    assert threading.enumerate() == threads
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", backend.port))
    for client in clients:
        client.close()
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def connect(port: int, timeout: float = 1.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout)


def test_refused_port_refuses() -> None:
    with faulty.refused_port() as port, pytest.raises(ConnectionRefusedError):
        connect(port)


def test_full_backlog_never_completes_a_connection() -> None:
    with faulty.full_backlog() as port, pytest.raises(TimeoutError):
        connect(port, 0.3)


def test_hanging_listener_connects_and_says_nothing() -> None:
    with faulty.hanging_listener() as port, connect(port, 0.2) as client:
        client.sendall(request_for("ok"))
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_resetting_listener_resets() -> None:
    with faulty.resetting_listener() as port, pytest.raises(ConnectionResetError), connect(port) as client:
        client.recv(1)


def test_closing_listener_closes() -> None:
    with faulty.closing_listener() as port, connect(port) as client:
        assert client.recv(1) == b""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> faulty.Certificates:
    return faulty.make_certificates(tmp_path_factory.mktemp("certificates"))


def ask_over_tls(backend: FaultyBackend, trust: Path, client: tuple[Path, Path] | None = None) -> bytes:
    context = ssl.create_default_context(cafile=trust)
    if client is not None:
        context.load_cert_chain(*client)
    with connect(backend.port, 5) as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
        secured.sendall(request_for("ok_close"))
        data = b""
        while part := secured.recv(65536):
            data += part
        return data


def test_valid_certificate_is_accepted_and_the_cases_play(certificates: faulty.Certificates) -> None:
    with faulty.tls_backend(certificates, "valid") as backend:
        assert backend.url.startswith("https://")
        assert ask_over_tls(backend, certificates.ca).endswith(faulty.right_answer(BODY))


@pytest.mark.parametrize(
    ("kind", "why"),
    [("expired", "expired"), ("wrong_host", "mismatch"), ("self_signed", "self-signed")],
)
def test_bad_certificate_is_refused_for_its_reason(kind: str, why: str, certificates: faulty.Certificates) -> None:
    with (
        faulty.tls_backend(certificates, kind) as backend,
        pytest.raises(ssl.SSLCertVerificationError, match=why),
    ):
        ask_over_tls(backend, certificates.ca)
    assert backend.requests == []


def test_backend_that_asks_for_a_client_certificate_gets_one(certificates: faulty.Certificates) -> None:
    with faulty.tls_backend(certificates, "valid", ask_client=True) as backend:
        answer = ask_over_tls(backend, certificates.ca, certificates.client)
        assert answer.endswith(faulty.right_answer(BODY))
        with contextlib.suppress(ssl.SSLError, ConnectionError):  # TLS 1.3 may tell the client late, or not at all
            assert ask_over_tls(backend, certificates.ca) == b""
        assert len(backend.requests) == 1
