"""PROXY headers as a balancer writes them, versions 1 and 2; written apart from the reader that they test."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from typing import Final

SIGNATURE: Final = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"
LOCAL: Final = 0x20
PROXY: Final = 0x21
Tlv = tuple[int, bytes]


def v1(source: str, port: int = 50000, destination: str | None = None, other_port: int = 8080) -> bytes:
    """``PROXY TCP4 …`` or ``PROXY TCP6 …``."""
    six = ":" in source
    if destination is None:
        destination = "2001:db8::99" if six else "192.0.2.99"
    return f"PROXY TCP{6 if six else 4} {source} {destination} {port} {other_port}\r\n".encode()


def v2(source: str, port: int = 50000, tlvs: Iterable[Tlv] = (), *, checksum: bool = False) -> bytes:
    """The binary form for TCP, IPv4 or IPv6, with these TLVs, and a checksum as the last if wanted."""
    address = ipaddress.ip_address(source)
    destination = bytes(len(address.packed))
    return v2_raw(
        0x11 if address.version == 4 else 0x21,
        address.packed + destination + struct.pack("!HH", port, 8080),
        tlvs,
        checksum=checksum,
    )


def v2_raw(
    family: int, addresses: bytes, tlvs: Iterable[Tlv] = (), *, command: int = PROXY, checksum: bool = False
) -> bytes:
    """Any header of version 2."""
    block = addresses + b"".join(struct.pack("!BH", kind, len(value)) + value for kind, value in tlvs)
    if not checksum:
        return SIGNATURE + struct.pack("!BBH", command, family, len(block)) + block
    block += struct.pack("!BHL", 3, 4, 0)
    header = SIGNATURE + struct.pack("!BBH", command, family, len(block)) + block
    return header[:-4] + struct.pack("!L", crc32c(header))


def crc32c(data: bytes) -> int:
    """Bit by bit, as the definition has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    return crc ^ 0xFFFFFFFF
