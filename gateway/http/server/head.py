"""Reads a request's head strictly (RFC 9112): what two readers could understand differently is refused.

Lines end with CR LF and nothing else does; no control characters; no folding; no white space around names; at most one
Host, and a valid one; exactly one way to say where the body ends. Pure: bytes in, Head or BadRequest out.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

MAX_HEAD: Final = 32 * 1024
"""Bytes of request line and header fields."""
MAX_REQUEST_LINE: Final = 8 * 1024
MAX_FIELDS: Final = 100
_MAX_NAMES: Final = 1024
"""Field names whose lower case is remembered."""

_REMEMBERED: Final = 512
"""Heads that are remembered."""
_LONGEST_REMEMBERED: Final = 1024
"""Bytes of the longest head that is remembered."""

_CONTROLS: Final = bytes([*range(0x20), 0x7F])
_CONTROLS_BUT_TAB: Final = _CONTROLS.replace(b"\t", b"")
_is_method = re.compile(rb"[A-Z]{1,24}").fullmatch
_is_target = re.compile(rb"[!-~]+").fullmatch
_is_name = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_is_host = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?").fullmatch
_absolute = re.compile(rb"https?://([^/?]+)(/[^?]*)?(?:\?(.*))?", re.IGNORECASE).fullmatch


class BadRequest(Exception):
    """The request is refused with this status; the message is for its sender."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.head: Head | None = None
        """The request's head, if it had been read by then."""
        self.client: tuple[str, int] | None = None
        """The address and port of its sender, as far as they are known."""


class NotAllowed(BadRequest):
    """The peer's address is not among those that may send hooks."""


class TooManyConnections(BadRequest):
    """A limit on connections or memory was reached before anything was read."""


class Head(msgspec.Struct, frozen=True, gc=False):
    """A request's head, unambiguous."""

    method: str
    path: bytes
    """As sent, still percent-encoded."""
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    """Names in lower case, in the order in which they came; without Content-Length, which *length* has."""
    length: int | None
    """Bytes of the body; None = it is chunked."""
    keep_alive: bool
    expects_continue: bool
    decoded_path: str
    """The path, percent-decoded once."""

    def with_length(self, length: int) -> Head:
        """The same head before a body of this many bytes."""
        return msgspec.structs.replace(self, length=length)


_LENGTH_NAMES: Final = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
"""As Java and as proxies write it; a head with another spelling is parsed each time."""
_framing_line = re.compile(rb"\r\n(?:content-length|transfer-encoding)[^\r\n]*:", re.IGNORECASE).search


def read_head(data: bytes) -> Head:
    """As ``parse_head``, but heads that differ only in Content-Length, as a media server's do, are parsed once.

    Raises BadRequest (400, 431).
    """
    if len(data) <= _LONGEST_REMEMBERED:
        for name in _LENGTH_NAMES:
            start = data.find(name)
            if start >= 0:
                end = data.find(b"\r\n", start + len(name))
                length = data[start + len(name) :] if end < 0 else data[start + len(name) : end]
                head = _head_without_length(data[:start] if end < 0 else data[:start] + data[end:])
                if head is None or not length.isdigit() or len(length) > 9:
                    break
                return head.with_length(int(length))
    return parse_head(data)


@lru_cache(_REMEMBERED)
def _head_without_length(data: bytes) -> Head | None:
    """A head whose Content-Length was cut out; None if it says more about the body's length, or is faulty."""
    if _framing_line(data):
        return None
    try:
        head = parse_head(data)
    except BadRequest:
        return None
    return head if len(head.headers) < MAX_FIELDS else None


def parse_head(data: bytes) -> Head:
    """Read a head without its final empty line. Raises BadRequest (400, 431)."""
    lines = data.split(b"\r\n")
    # Each line break is two control characters; one more of any kind is one too many.
    if len(data.translate(None, _CONTROLS_BUT_TAB)) != len(data) - 2 * (len(lines) - 1):
        raise BadRequest(400, "the head has a control character, or a line break that is not CR LF")
    if len(lines) > MAX_FIELDS + 1:
        raise BadRequest(431, f"more than {MAX_FIELDS} header fields")
    method, path, query, version, authority = _request_line(lines[0])
    headers: list[tuple[bytes, bytes]] = []
    framing: list[tuple[bytes, bytes]] = []
    hosts: list[bytes] = []
    keep_alive, expects_continue = version == b"HTTP/1.1", False
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        lower = _lower_name(name)
        if not colon:
            raise BadRequest(400, "a header line has no colon")
        value = value.strip(b" \t")
        if lower == b"content-length":
            framing.append((lower, value))
            continue
        headers.append((lower, value))
        if lower == b"host":
            hosts.append(value)
        elif lower == b"transfer-encoding":
            framing.append((lower, value))
        elif lower == b"connection":
            tokens = value.lower()
            keep_alive = keep_alive and b"close" not in tokens
        elif lower == b"expect":
            expects_continue = value.lower() == b"100-continue"
            if not expects_continue:
                raise BadRequest(400, "Expect asks for something other than 100-continue")
    if version == b"HTTP/1.0":
        expects_continue = False  # HTTP/1.0 does not know it (RFC 9110, section 10.1.1)
    _check_host(hosts, authority, version)
    length = _framing(framing, version)
    return Head(
        method=method,
        path=path,
        query=query,
        headers=tuple(headers),
        length=length,
        keep_alive=keep_alive,
        expects_continue=expects_continue,
        decoded_path=_decode_path(path),
    )


def _request_line(line: bytes) -> tuple[str, bytes, bytes, bytes, bytes | None]:
    """Method, path, query, version, and the authority of an absolute-form target (RFC 9112, section 3.2.2)."""
    if len(line) > MAX_REQUEST_LINE:
        raise BadRequest(431, f"the request line is longer than {MAX_REQUEST_LINE} bytes")
    parts = line.split(b" ")
    if len(parts) != 3 or not _is_method(parts[0]) or not _is_target(parts[1]):
        raise BadRequest(400, "the request line is not METHOD TARGET VERSION")
    method, target, version = parts
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise BadRequest(400, "the version is neither HTTP/1.1 nor HTTP/1.0")
    if b"#" in target:
        raise BadRequest(400, "the request target has a fragment")
    if target.startswith(b"/"):
        path, _, query = target.partition(b"?")
        return method.decode("ascii"), path, query, version, None
    absolute = _absolute(target)
    if absolute is None:
        raise BadRequest(400, "the request target is no path")
    return method.decode("ascii"), absolute[2] or b"/", absolute[3] or b"", version, absolute[1]


def _decode_path(path: bytes) -> str:
    return unquote_to_bytes(path).decode("utf-8", "replace") if b"%" in path else path.decode("ascii")


@lru_cache(_MAX_NAMES)
def _lower_name(name: bytes) -> bytes:
    if not _is_name(name) or len(name) > 256:
        raise BadRequest(400, "a header's name has characters that no name may have, or white space around it")
    return name.lower()


def _check_host(hosts: list[bytes], authority: bytes | None, version: bytes) -> None:
    """Exactly one valid Host, which HTTP/1.0 may leave out (RFC 9112, section 3.2)."""
    if len(hosts) > 1:
        raise BadRequest(400, "Host appears more than once")
    if not hosts and version == b"HTTP/1.1":
        raise BadRequest(400, "Host is missing")
    if hosts and not _is_host(hosts[0]):
        raise BadRequest(400, "Host is not a host")
    if authority is not None and (not _is_host(authority) or (hosts and hosts[0].lower() != authority.lower())):
        raise BadRequest(400, "the request target names another host than Host does")


def _framing(framing: list[tuple[bytes, bytes]], version: bytes) -> int | None:
    """Where the body ends: one Content-Length, or exactly ``chunked``, or nothing (RFC 9112, section 6)."""
    if not framing:
        return 0
    if len(framing) > 1:
        raise BadRequest(400, "Content-Length and Transfer-Encoding may stand once, and not both")
    name, value = framing[0]
    if name == b"transfer-encoding":
        if value.lower() != b"chunked" or version != b"HTTP/1.1":
            raise BadRequest(400, "Transfer-Encoding is not exactly 'chunked' in HTTP/1.1")
        return None
    if not value.isdigit() or len(value) > 18:
        raise BadRequest(400, "Content-Length is not a number")
    return int(value)
