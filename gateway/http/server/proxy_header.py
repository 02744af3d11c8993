"""Reads a PROXY header, version 1 or 2: the client's address as the balancer in front saw it.

Pure: bytes in, ProxyHeader or BadProxyHeader out. What HAProxy's doc/proxy-protocol.txt allows in one way only is read
in that way only: single spaces, no leading zeros, lengths that fit, a checksum that is right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

MAX_V1: Final = 107
"""Bytes of a header of version 1, its line end included (section 2.1)."""
MAX_V2_BLOCK: Final = 2048
"""Bytes that follow the first 16 of a header of version 2: addresses and TLVs."""
_V1_START: Final = b"PROXY "
_V2_START: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED: Final = 16
MAX_HEADER: Final = _V2_FIXED + MAX_V2_BLOCK

_PORT: Final = rb"(0|[1-9][0-9]{0,4})"
_tcp4 = re.compile(rb"PROXY TCP4 ([0-9.]{7,15}) ([0-9.]{7,15}) %b %b\r\n" % (_PORT, _PORT)).fullmatch
_tcp6 = re.compile(rb"PROXY TCP6 ([0-9A-Fa-f:.]{2,45}) ([0-9A-Fa-f:.]{2,45}) %b %b\r\n" % (_PORT, _PORT)).fullmatch
_unknown = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n").fullmatch

_LOCAL, _PROXY = 0x20, 0x21
_UNSPECIFIED, _TCP4, _TCP6, _UNIX_STREAM = 0x00, 0x11, 0x21, 0x31
_ADDRESS_SIZES: Final = {_UNSPECIFIED: 0, _TCP4: 12, _TCP6: 36, _UNIX_STREAM: 216}
"""Bytes of both addresses and ports, by family and transport (section 2.2); those that no TCP balancer sends lack."""
_CRC32C: Final = 0x03
_POLYNOMIAL: Final = 0x82F63B78


class BadProxyHeader(Exception):
    """The connection does not begin with a valid PROXY header; the message says why."""


class ProxyHeader(NamedTuple):
    """A whole header."""

    size: int
    """Its bytes; what follows is the client's."""
    client: tuple[str, int] | None
    """The client's address and port; None = the peer speaks for itself, as in a health check (LOCAL, UNKNOWN)."""


def read_proxy_header(data: bytes) -> ProxyHeader | None:
    """Read the header at the start of *data*; None = it has not come whole. Raises BadProxyHeader."""
    if _V2_START.startswith(data[: len(_V2_START)]):
        return _read_v2(data) if len(data) >= _V2_FIXED else None
    if _V1_START.startswith(data[: len(_V1_START)]):
        return _read_v1(data)
    raise BadProxyHeader("the connection does not begin with a PROXY header")


def _read_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\n", 0, MAX_V1)
    if end < 0:
        if len(data) >= MAX_V1:
            raise BadProxyHeader(f"version 1: the line is longer than {MAX_V1} bytes")
        return None
    line = data[: end + 1]
    if _unknown(line):
        return ProxyHeader(len(line), None)
    kind: type[IPv4Address | IPv6Address] = IPv4Address
    match = _tcp4(line)
    if match is None:
        kind, match = IPv6Address, _tcp6(line)
    if match is None:
        raise BadProxyHeader("version 1: the line is not PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT")
    try:
        source, _ = (kind(text.decode("ascii")) for text in match.group(1, 2))
    except ValueError as exc:
        raise BadProxyHeader("version 1: an address is not valid") from exc
    port, other_port = map(int, match.group(3, 4))
    if max(port, other_port) > 0xFFFF:
        raise BadProxyHeader("version 1: a port is larger than 65535")
    return ProxyHeader(len(line), (_address_text(source), port))


def _read_v2(data: bytes) -> ProxyHeader | None:
    command, family, length = data[12], data[13], int.from_bytes(data[14:16], "big")
    if command not in (_LOCAL, _PROXY):
        raise BadProxyHeader(f"version 2: version and command are {command:#04x}, not 0x20 or 0x21")
    if length > MAX_V2_BLOCK:
        raise BadProxyHeader(f"version 2: it is longer than {_V2_FIXED} + {MAX_V2_BLOCK} bytes")
    size = _V2_FIXED + length
    if len(data) < size:
        return None
    header, address_size = data[:size], _ADDRESS_SIZES.get(family)
    if command == _LOCAL:  # whose addresses are to be ignored, their family included
        if address_size is not None and address_size <= length:
            _check_tlvs(header, _V2_FIXED + address_size)
        return ProxyHeader(size, None)
    if address_size is None:
        raise BadProxyHeader(f"version 2: family and transport are {family:#04x}, not those of TCP")
    if length < address_size:
        raise BadProxyHeader("version 2: it is too short for its addresses")
    _check_tlvs(header, _V2_FIXED + address_size)
    if family == _TCP4:
        return ProxyHeader(size, (str(IPv4Address(header[16:20])), int.from_bytes(header[24:26], "big")))
    if family == _TCP6:
        source = IPv6Address(header[16:32])
        return ProxyHeader(size, (_address_text(source), int.from_bytes(header[48:50], "big")))
    return ProxyHeader(size, None)


def _check_tlvs(header: bytes, at: int) -> None:
    """Raise BadProxyHeader unless the TLVs from *at* on fill the header, and its checksum, if it has one, is right."""
    is_checked = False
    while at < len(header):
        value = at + 3
        end = value + int.from_bytes(header[at + 1 : value], "big")
        if value > len(header) or end > len(header):
            raise BadProxyHeader("version 2: a TLV is longer than the header")
        if header[at] == _CRC32C:
            if end - value != 4 or is_checked:
                raise BadProxyHeader("version 2: the checksum is not 4 bytes, or there are two")
            if crc32c(header[:value] + bytes(4) + header[end:]) != int.from_bytes(header[value:end], "big"):
                raise BadProxyHeader("version 2: the checksum is wrong")
            is_checked = True
        at = end


def _address_text(address: IPv4Address | IPv6Address) -> str:
    """The address in its one spelling; an IPv4-mapped one is an IPv4 address (RFC 4291, section 2.5.5.2)."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _crc_table() -> tuple[int, ...]:
    table: Sequence[int] = range(256)
    for _ in range(8):
        table = [value >> 1 ^ (_POLYNOMIAL if value & 1 else 0) for value in table]
    return tuple(table)


_TABLE: Final = _crc_table()


def crc32c(data: bytes) -> int:
    """The CRC-32C of *data* (RFC 9260, appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
