"""PROXY headers by themselves: which address each brings, and which are rejected."""

from __future__ import annotations

import ipaddress
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.server.proxy_header import (
    MAX_HEADER,
    MAX_V1,
    MAX_V2_BLOCK,
    BadProxyHeader,
    ProxyHeader,
    crc32c,
    read_proxy_header,
)
from tests.support.proxied import LOCAL, SIGNATURE, Tlv, v1, v2, v2_raw

Client = tuple[str, int] | None

ports = st.integers(0, 0xFFFF)
addresses = st.ip_addresses().map(str)
tlvs = st.lists(st.tuples(st.integers(0, 255).filter(lambda kind: kind != 3), st.binary(max_size=60)), max_size=5)
rests = st.binary(max_size=40)
UNIX: Final = bytes(216)
FOUR: Final = bytes(range(1, 9)) + b"\xc3\x50\x1f\x90"


def plain(address: str) -> str:
    """What the gateway calls this address: an IPv4-mapped one is IPv4."""
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def result(data: bytes) -> ProxyHeader | str | None:
    """The header, None where it is not whole, or the words of its rejection."""
    try:
        return read_proxy_header(data)
    except BadProxyHeader as exc:
        return str(exc)


# --- what balancers send ---


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (b"PROXY TCP4 192.0.2.1 192.0.2.9 56324 443\r\n", ("192.0.2.1", 56324)),
        (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", ("255.255.255.255", 65535)),
        (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", ("0.0.0.0", 0)),
        (b"PROXY TCP6 2001:db8::1 2001:db8::9 1 2\r\n", ("2001:db8::1", 1)),
        (b"PROXY TCP6 2001:DB8:0:0::0001 ::1 1 2\r\n", ("2001:db8::1", 1)),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.9 1 2\r\n", ("192.0.2.1", 1)),
        (b"PROXY TCP6 " + b":".join([b"ffff"] * 8) + b" " + b":".join([b"ffff"] * 8) + b" 65535 65535\r\n",
         (":".join(["ffff"] * 8), 65535)),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN 192.0.2.1 192.0.2.9 1 2\r\n", None),
        (b"PROXY UNKNOWN " + b"f" * (MAX_V1 - 16) + b"\r\n", None),
        (v2_raw(0x11, FOUR), ("1.2.3.4", 50000)),
        (v2("2001:db8::1", 7), ("2001:db8::1", 7)),
        (v2("::ffff:192.0.2.1", 7), ("192.0.2.1", 7)),
        (v2_raw(0x31, UNIX), None),
        (v2_raw(0x00, b""), None),
        (v2_raw(0x00, b"", command=LOCAL), None),
        (v2_raw(0x00, b"", command=LOCAL, checksum=True), None),
        (v2_raw(0x11, FOUR, command=LOCAL), None),
        (v2_raw(0x11, b"odd", command=LOCAL), None),
        (v2_raw(0x77, b"odd", command=LOCAL), None),
        (v2_raw(0x11, FOUR, [(0x04, b""), (0xEA, b"\x01vpce"), (0x20, b"\x01\0\0\0\0")]), ("1.2.3.4", 50000)),
        (v2_raw(0x11, FOUR, [(0x05, b"unique")], checksum=True), ("1.2.3.4", 50000)),
        (v2_raw(0x11, FOUR, [(0x04, bytes(MAX_V2_BLOCK - 15))]), ("1.2.3.4", 50000)),
    ],
)  # fmt: skip
def test_a_header_brings_its_client_and_ends_where_it_says(header: bytes, client: Client) -> None:
    assert result(header) == ProxyHeader(len(header), client)
    assert len(header) <= MAX_HEADER


NOT_V1: Final = "version 1: the line is not PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT"
TOO_LONG: Final = "a TLV is longer than the header"
HOSTILE: Final = {
    b"POST /OnCallEvent HTTP/1.1\r\n": "does not begin with a PROXY header",
    b"\x16\x03\x01\x02\x00\x01": "does not begin with a PROXY header",
    b"proxy TCP4 192.0.2.1 192.0.2.9 1 2\r\n": "does not begin with a PROXY header",
    b" PROXY TCP4 192.0.2.1 192.0.2.9 1 2\r\n": "does not begin with a PROXY header",
    b"PROXY\tTCP4 192.0.2.1 192.0.2.9 1 2\r\n": "does not begin with a PROXY header",
    b"\n": "does not begin with a PROXY header",
    b"\r\n\r\n\0\r\nQUIT\r": "does not begin with a PROXY header",
    b"PROXY TCP4 192.0.2.1 192.0.2.9 1 2\n": NOT_V1,
    b"PROXY TCP4 192.0.2.1 192.0.2.9 1 2\r\r\n": NOT_V1,
    b"PROXY TCP4 192.0.2.1 192.0.2.9 1 2 \r\n": NOT_V1,
    b"PROXY TCP4  192.0.2.1 192.0.2.9 1 2\r\n": NOT_V1,
    b"PROXY TCP4\t192.0.2.1 192.0.2.9 1 2\r\n": NOT_V1,
    b"PROXY TCP4 192.0.2.1 192.0.2.9 1\r\n": NOT_V1,
    b"PROXY TCP4 192.0.2.1 192.0.2.9 01 2\r\n": NOT_V1,
    b"PROXY TCP4 192.0.2.1 192.0.2.9 +1 2\r\n": NOT_V1,
    b"PROXY TCP4 192.0.2.1 192.0.2.9 1 123456\r\n": NOT_V1,
    b"PROXY TCP4 2001:db8::1 2001:db8::9 1 2\r\n": NOT_V1,
    b"PROXY TCP4 localhost localhost 1 2\r\n": NOT_V1,
    b"PROXY TCP4 \xd9\xa1.2.3.4 192.0.2.9 1 2\r\n": NOT_V1,
    b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n": NOT_V1,
    b"PROXY TCP5 192.0.2.1 192.0.2.9 1 2\r\n": NOT_V1,
    b"PROXY UDP4 192.0.2.1 192.0.2.9 1 2\r\n": NOT_V1,
    b"PROXY UNKNOWNS\r\n": NOT_V1,
    b"PROXY UNKNOWN a\rb\r\n": NOT_V1,
    b"PROXY \r\n": NOT_V1,
    b"PROXY / HTTP/1.1\r\n": NOT_V1,
    b"PROXY TCP4 192.0.2.1 192.0.2.9 65536 2\r\n": "version 1: a port is larger than 65535",
    b"PROXY TCP4 192.0.2.1 192.0.2.9 1 99999\r\n": "version 1: a port is larger than 65535",
    b"PROXY TCP4 192.0.2.256 192.0.2.9 1 2\r\n": "version 1: an address is not valid",
    b"PROXY TCP4 192.0.02.1 192.0.2.9 1 2\r\n": "version 1: an address is not valid",
    b"PROXY TCP4 192.0.2.1 192.0.2 1 2\r\n": "version 1: an address is not valid",
    b"PROXY TCP6 192.0.2.1 192.0.2.9 1 2\r\n": "version 1: an address is not valid",
    b"PROXY TCP6 2001:db8::1::2 ::1 1 2\r\n": "version 1: an address is not valid",
    b"PROXY UNKNOWN " + b"f" * (MAX_V1 - 15) + b"\r\n": "version 1: the line is longer than 107 bytes",
    b"PROXY TCP4 " + b"1" * 5000: "version 1: the line is longer than 107 bytes",
    v2_raw(0x11, FOUR, command=0x11): "version and command are 0x11, not 0x20 or 0x21",
    v2_raw(0x11, FOUR, command=0x22): "version and command are 0x22, not 0x20 or 0x21",
    v2_raw(0x12, FOUR): "family and transport are 0x12, not those of TCP",
    v2_raw(0x10, FOUR): "family and transport are 0x10, not those of TCP",
    v2_raw(0x41, FOUR): "family and transport are 0x41, not those of TCP",
    v2_raw(0x11, FOUR[:-1]): "too short for its addresses",
    v2_raw(0x21, FOUR): "too short for its addresses",
    v2_raw(0x31, UNIX[:-1]): "too short for its addresses",
    SIGNATURE + b"\x21\x11\xff\xff": "it is longer than 16 + 2048 bytes",
    SIGNATURE + b"\x20\x00\x08\x01": "it is longer than 16 + 2048 bytes",
    v2_raw(0x11, FOUR + b"\x04"): TOO_LONG,
    v2_raw(0x11, FOUR + b"\x04\x00"): TOO_LONG,
    v2_raw(0x11, FOUR + b"\x04\x00\x01"): TOO_LONG,
    v2_raw(0x11, FOUR + b"\x04\xff\xff" + bytes(100)): TOO_LONG,
    v2_raw(0x00, b"\x04\x00\x09", command=LOCAL): TOO_LONG,
    v2_raw(0x11, FOUR, [(3, b"\0\0\0")]): "the checksum is not 4 bytes, or there are two",
    v2_raw(0x11, FOUR, [(3, bytes(5))]): "the checksum is not 4 bytes, or there are two",
    v2_raw(0x11, FOUR, [(3, bytes(4))]): "the checksum is wrong",
    v2_raw(0x00, b"", [(3, bytes(4))], command=LOCAL): "the checksum is wrong",
}  # fmt: skip
"""By the header: words of why it is rejected."""


@pytest.mark.parametrize("header", HOSTILE)
def test_a_hostile_header_is_rejected_and_says_why(header: bytes) -> None:
    said = result(header)
    assert isinstance(said, str), said
    assert HOSTILE[header] in said


def test_two_checksums_are_one_too_many_even_if_the_first_is_right() -> None:
    # The second's four bytes are chosen so that nothing but their number is wrong.
    whole = v2_raw(0x11, FOUR, [(3, bytes(4)), (3, bytes(4))])
    first = len(whole) - 11
    header = whole[:first] + crc32c(whole).to_bytes(4, "big") + whole[first + 4 :]
    assert result(header) == "version 2: the checksum is not 4 bytes, or there are two"


# --- properties ---


@given(address=addresses, port=ports, destination=addresses, other=ports, rest=rests)
def test_any_header_of_version_1_brings_the_address_that_was_written(
    address: str, port: int, destination: str, other: int, rest: bytes
) -> None:
    if (":" in address) != (":" in destination):
        destination = address
    header = v1(address, port, destination, other)
    assert result(header + rest) == ProxyHeader(len(header), (plain(address), port))


@given(address=addresses, port=ports, tlvs=tlvs, checksum=st.booleans(), rest=rests)
def test_any_header_of_version_2_brings_the_address_that_was_written(
    address: str, port: int, tlvs: list[Tlv], checksum: bool, rest: bytes
) -> None:
    header = v2(address, port, tlvs, checksum=checksum)
    assert result(header + rest) == ProxyHeader(len(header), (plain(address), port))


headers = st.one_of(
    st.builds(v1, addresses, ports), st.builds(v2, addresses, ports, tlvs, checksum=st.booleans())
)  # fmt: skip


@given(header=headers)
def test_every_part_of_a_header_waits_for_the_rest(header: bytes) -> None:
    for size in range(len(header)):
        assert result(header[:size]) is None, header[:size]


@given(header=st.builds(v2, addresses, ports, tlvs, checksum=st.just(True)), data=st.data())
def test_a_header_with_a_checksum_and_one_byte_changed_brings_no_other_address(
    header: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(header) - 1))
    changed = bytearray(header)
    changed[at] ^= data.draw(st.integers(1, 255))
    found, whole = result(bytes(changed)), result(header)
    assert isinstance(whole, ProxyHeader)
    if at in (14, 15) and isinstance(found, ProxyHeader):  # the length: a header that ends sooner has no checksum
        found = found._replace(size=whole.size)
    assert not isinstance(found, ProxyHeader) or found == whole, changed


@given(header=st.builds(v1, addresses, ports), data=st.data())
def test_a_line_with_one_byte_changed_is_rejected_unless_it_is_another_valid_line(
    header: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(header) - 1))
    changed = bytearray(header)
    changed[at] ^= data.draw(st.integers(1, 255))
    found = result(bytes(changed))
    if isinstance(found, ProxyHeader):
        assert found.client is not None
        _, kind, source, destination, port, other = bytes(changed).decode("ascii").removesuffix("\r\n").split(" ")
        assert {ipaddress.ip_address(text).version for text in (source, destination)} == {int(kind[-1])}
        assert found.client == (plain(source), int(port))
        assert str(int(other)) == other


@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_header_a_part_of_one_or_rejected(data: bytes) -> None:
    for start in (b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11\x00"):
        found = result(start + data)
        if isinstance(found, ProxyHeader):
            assert 15 <= found.size <= min(len(start + data), MAX_HEADER)


@given(data=st.binary(max_size=100))
def test_the_checksum_is_castagnoli_s(data: bytes) -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 9260, appendix A has the polynomial; this is its usual check value
    header = v2_raw(0x00, b"", [(0x04, data)], checksum=True)
    assert result(header) == ProxyHeader(len(header), None)
