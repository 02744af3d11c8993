"""What the fuzzers check: each target takes arbitrary bytes and fails where a promise about them is broken.

``run_fuzz.py`` drives them with atheris (``make fuzz``); ``test_found.py`` gives them every input that was ever found.
A target may raise nothing at all: what the code under test is allowed to raise is caught here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

import httptools

from gateway.config import ConfigError, loads
from gateway.http.client.answer_parser import Answer
from gateway.http.client.connection import Connection
from gateway.http.client.errors import ExchangeError
from gateway.http.client.fast_path import parse_plain_answer
from gateway.http.server.chunked import ChunkedBody
from gateway.http.server.forwarded_for import forwarded_client
from gateway.http.server.head import BadRequest, Head, NotAllowed, parse_head, read_head
from gateway.http.server.proxy_header import MAX_HEADER, BadProxyHeader, ProxyHeader, read_proxy_header
from gateway.model.hooks import BadHookError, field_text, is_json_object, parse_hook
from gateway.policy.access import ClientAddresses
from tests.fuzz.fuzz_answers import ANSWER_TARGETS

MAX_BODY: Final = 1000
"""Bytes that the readers under test take; small, so that the fuzzer gets past it."""
_CONTROLS: Final = frozenset(range(0x20)) - {0x09} | {0x7F}


def promise(kept: bool, what: object) -> None:
    """Fail where a promise about what was raised is broken."""
    if not kept:
        raise AssertionError(what)


def pieces(data: bytes) -> list[bytes]:
    """The input as it would come in segments: its first two bytes choose where it is cut."""
    if len(data) < 3:
        return [data]
    first, step, rest = data[0], data[1] % 32 + 1, data[2:]
    if first % 4 == 0:
        return [rest]
    if first % 4 == 1:
        return [rest[: first // 4], rest[first // 4 :]]
    return [rest[at : at + step] for at in range(0, len(rest), step)]


# --- the request's head ---


def head(data: bytes) -> None:
    """A head is refused with a status of the contract, or read as llhttp reads it, remembered or not."""
    try:
        parsed = parse_head(data)
    except BadRequest as exc:
        promise(exc.status in (400, 431), exc)
        promise(_read(data) == exc.status, data)
        return
    assert _read(data) == parsed, (_read(data), parsed)
    assert parsed.path.startswith(b"/"), parsed
    assert parsed.length is None or 0 <= parsed.length < 10**18
    hosts = [value for name, value in parsed.headers if name == b"host"]
    assert len(hosts) <= 1, parsed
    for name, value in parsed.headers:
        assert name, parsed
        assert name == name.lower(), parsed
        assert not _CONTROLS.intersection(name + value), parsed
    if parsed.method == "POST":
        _agrees_with_llhttp(data, parsed)


def _read(data: bytes) -> Head | int:
    """The head; the status of a refusal."""
    try:
        return read_head(data)
    except BadRequest as exc:
        return exc.status


class _Reader:
    """What llhttp finds in a request."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.target = b""
        self.body = b""
        self.trailing = False
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.trailing:
            self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.trailing = True

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


def _agrees_with_llhttp(data: bytes, parsed: Head) -> None:
    """A backend that reads the same bytes must not see another request."""
    reader = _Reader()
    parser = httptools.HttpRequestParser(reader)
    try:
        parser.feed_data(data + b"\r\n\r\n")
    except httptools.HttpParserUpgrade:
        return
    except httptools.HttpParserError as exc:
        raise AssertionError(f"llhttp refuses what was taken: {exc}, {data!r}") from exc
    lengths = [int(value) for name, value in reader.headers if name == b"content-length"]
    chunked = [value for name, value in parsed.headers if name == b"transfer-encoding"]
    assert tuple(field for field in reader.headers if field[0] != b"content-length") == parsed.headers, data
    assert len(lengths) + len(chunked) <= 1, parsed
    assert parsed.length == (None if chunked else sum(lengths)), parsed
    assert reader.complete == (parsed.length == 0), data


# --- what a proxy says about its client ---

_TRUSTED: Final = ClientAddresses((), [ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/32")])
_PROXY: Final = ("192.0.2.5", 1)


def proxy_header(data: bytes) -> None:
    """Any bytes are one header, a part of one, or rejected, however they are cut; the address is a plain one.

    The same bytes as X-Forwarded-For name one client or none, and what comes before that client changes nothing.
    """
    found = _proxy_header(data)
    if isinstance(found, ProxyHeader):
        assert 15 <= found.size <= min(len(data), MAX_HEADER), found
        assert _proxy_header(data[: found.size]) == found, data
        for size in range(found.size):
            assert _proxy_header(data[:size]) is None, (size, data)
        _is_plain(found.client)
    elif found is None:
        assert len(data) < MAX_HEADER, data
    else:
        assert isinstance(_proxy_header(data + b"\r\n" + bytes(MAX_HEADER)), str), data
    client = _forwarded(data)
    _is_plain(client)
    if client is not None and not _TRUSTED.trusts(client):
        assert _forwarded(b"\x00, " + data) == client, data


def _proxy_header(data: bytes) -> ProxyHeader | str | None:
    try:
        return read_proxy_header(data)
    except BadProxyHeader as exc:
        return str(exc)


def _forwarded(data: bytes) -> tuple[str, int] | None:
    try:
        return forwarded_client([(b"x-forwarded-for", data)], _PROXY, _TRUSTED)
    except NotAllowed:
        return None


def _is_plain(client: tuple[str, int] | None) -> None:
    if client is not None:
        address = ipaddress.ip_address(client[0])
        assert str(address) == client[0], client
        assert isinstance(address, ipaddress.IPv4Address) or address.ipv4_mapped is None, client
        assert 0 <= client[1] <= 0xFFFF, client


# --- the chunked coding ---


def chunked(data: bytes) -> None:
    """However the bytes are cut into segments, the body is the same, and it is the one that llhttp finds."""
    parts = pieces(data)
    whole = _unchunked([b"".join(parts)])
    assert _unchunked(parts) == whole, parts
    if isinstance(whole, bytes):
        assert len(whole) <= MAX_BODY
        assert _unchunked_by_llhttp(b"".join(parts)) in (whole, None), data


def _unchunked(parts: list[bytes]) -> bytes | int | None:
    """The body; the status of a refusal; None where it is not whole."""
    reader, buffer = ChunkedBody(MAX_BODY), bytearray()
    for part in parts:
        buffer += part
        try:
            body = reader.feed(buffer)
        except BadRequest as exc:
            promise(exc.status in (400, 413), exc)
            return exc.status
        if body is not None:
            return body
    return None


def _unchunked_by_llhttp(data: bytes) -> bytes | None:
    reader = _Reader()
    parser = httptools.HttpRequestParser(reader)
    start = b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    try:
        parser.feed_data(start + data)
    except httptools.HttpParserError as exc:
        # What follows the body is another matter. Extensions are thrown away: their grammar is not looked at, and
        # white space before them, which llhttp refuses, is allowed (RFC 9112, section 7.1.1).
        promise(reader.complete or b";" in data, f"llhttp refuses what was taken: {exc}, {data!r}")
        return reader.body if reader.complete else None
    assert reader.complete, data
    return reader.body


# --- a backend's answer ---


class _Handle:
    def cancel(self) -> None:
        pass


class _Loop:
    """As much of an event loop as a connection asks for; nothing in it ever runs."""

    def __init__(self) -> None:
        self._real = asyncio.SelectorEventLoop()

    def create_future(self) -> asyncio.Future[Answer]:
        return asyncio.Future(loop=self._real)

    def call_at(self, when: float, callback: Callable[..., object], *arguments: object) -> _Handle:
        return _Handle()

    def time(self) -> float:
        return 0.0


class _Socket:
    """Its descriptor is a pipe's: the poll object wants a real one."""

    def __init__(self) -> None:
        self._fd, _ = os.pipe()

    def fileno(self) -> int:
        return self._fd


class _Transport:
    def __init__(self, sock: _Socket) -> None:
        self._socket = sock
        self._closing = False

    def get_extra_info(self, name: str) -> _Socket:
        return self._socket

    def write(self, data: bytes) -> None:
        pass

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self._closing = True

    abort = close


class _Answers:
    """Plays the bytes into connections, one after the other."""

    def __init__(self) -> None:
        self._loop = _Loop()
        self._socket = _Socket()

    def outcome(self, parts: list[bytes], *, end: bool) -> tuple[str, object, object]:
        """What the waiting hook gets: an answer, a fault or nothing yet."""
        connection, transport, waiter = self._played(parts)
        if end and not transport.is_closing():
            connection.eof_received()
        if not waiter.done():
            connection.abort()
            return ("waits", None, None)
        fault = waiter.exception()
        if fault is not None:
            assert isinstance(fault, ExchangeError), repr(fault)
            assert not connection.reusable
            return ("fault", type(fault), fault.failure.cause)
        answer = waiter.result()
        assert 200 <= answer.status <= 599, answer
        assert len(answer.body) <= MAX_BODY
        if connection.reusable and not connection.closed:
            again = connection.exchange(b"POST / HTTP/1.1\r\n\r\n", b"", 1.0)
            assert not again.done(), "an answer belongs to two hooks"
        connection.abort()
        return ("answer", answer.status, answer.body)

    def answered(self, parts: list[bytes]) -> tuple[Answer, bool]:
        """The answer that must be among these bytes, with its fields, and whether its connection may be used again."""
        connection, _, waiter = self._played(parts)
        assert waiter.done(), parts
        reusable = connection.reusable
        connection.abort()
        return waiter.result(), reusable

    def _played(self, parts: list[bytes]) -> tuple[Connection, _Transport, asyncio.Future[Answer]]:
        lost: list[Connection] = []
        connection = Connection(self._loop, "backend", MAX_BODY, lost.append)  # type: ignore[arg-type]  # as much as is used
        transport = _Transport(self._socket)
        connection.connection_made(transport)  # type: ignore[arg-type]  # the same
        waiter = connection.exchange(b"POST / HTTP/1.1\r\n\r\n", b"", 1.0)
        for part in parts:
            if part and not transport.is_closing():
                connection.data_received(part)
        return connection, transport, waiter


_answers = _Answers()


def answer(data: bytes) -> None:
    """However the answer is cut into segments, the hook gets the same: one answer or one fault with its cause."""
    parts = pieces(data)
    end = bool(data) and data[0] % 8 < 4
    whole = _answers.outcome([b"".join(parts)], end=end)
    cut = _answers.outcome(parts, end=end)
    # What cannot become an answer may be seen later where it comes byte by byte.
    assert cut == whole or (cut[0] == "waits" and whole[0] == "fault"), (whole, cut, parts)
    _reads_plain_answers_as_the_parser_does(b"".join(parts))


def _reads_plain_answers_as_the_parser_does(data: bytes) -> None:
    """What is taken at a glance is taken by the parser too, which gets all that comes in pieces."""
    plain = parse_plain_answer(data)
    if plain is not None and plain.head.length <= MAX_BODY:
        assert _answers.answered([data]) == _answers.answered([data[:1], data[1:]]), data


# --- a hook's body ---


def hook(data: bytes) -> None:
    """A body is a hook exactly if strict JSON says so: one object, one appKey, a string with something in it."""
    expected = _app_key_by_json(data)
    try:
        taken = parse_hook(data)
    except BadHookError as exc:
        promise(bool(str(exc)), data)
        promise(expected is None or _is_out_of_reach(data), f"refused ({exc}), though it is a hook: {data!r}")
        return
    assert taken.app_key == expected, (taken, data)
    assert is_json_object(data)
    for raw in (taken.node_id, taken.session_id, taken.call_id, taken.caller, taken.callee):
        text = field_text(raw)
        assert text is None or len(text) <= 256


def _app_key_by_json(data: bytes) -> str | None:
    try:
        pairs = json.loads(
            data.decode("utf-8"), object_pairs_hook=_Object, parse_int=str, parse_float=str, parse_constant=_refuse
        )
    except (ValueError, RecursionError):
        return None
    if not isinstance(pairs, _Object):
        return None
    keys = [value for name, value in pairs if name == "appKey"]
    return keys[0] if len(keys) == 1 and isinstance(keys[0], str) and keys[0] and not _is_number(data) else None


class _Object(list[tuple[str, Any]]):
    """A JSON object with every name that stands in it, doubles included."""


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _is_number(data: bytes) -> bool:
    """Whether the appKey that was read as text stands there as a number: told apart by reading numbers as such."""
    value = json.loads(data.decode("utf-8"), parse_int=len, parse_float=len)
    return not isinstance(value.get("appKey"), str)


def _is_out_of_reach(data: bytes) -> bool:
    """What Python's reader takes and RFC 8259 warns of: half a surrogate pair, and depth without end."""
    try:
        every = json.loads(data, object_pairs_hook=_Object, parse_int=str, parse_float=str)
        json.dumps(every, ensure_ascii=False).encode("utf-8")
    except (UnicodeEncodeError, RecursionError):
        return True
    return data.count(b"[") + data.count(b"{") > 500


# --- the configuration ---


def config(data: bytes) -> None:
    """Any text is a configuration or a ConfigError whose problems have places and words."""
    try:
        loads(data.decode("utf-8", "replace"))
    except ConfigError as exc:
        promise(bool(exc.problems), data)
        for problem in exc.problems:
            promise(min(problem.line, problem.column) >= 1, problem)
            promise(str(problem).isprintable(), problem)


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "head": head,
    "proxy_header": proxy_header,
    "chunked": chunked,
    "answer": answer,
    "hook": hook,
    "config": config,
    **ANSWER_TARGETS,
}
