"""Addresses and networks as text, and in a configuration."""

# ruff: noqa: E501 - a row keeps its message on one line, so that it can be found by searching

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import (
    Address,
    ConfigError,
    SystemdAddress,
    UnixAddress,
    loads,
    parse_address,
    parse_admin_address,
    parse_listen_address,
)
from gateway.config.sections.addresses import is_host, overlap, parse_network

REJECTED = [
    (
        "server: {admin: '[fe80::1%a b]:80'}\n",
        '1:10: server.admin: must be an address such as 127.0.0.1:9180, [::1]:9180, :9180 or systemd:admin, not "[fe80::1%a b]:80"',
    ),
    (
        "server: {listen: '0x7f.1:80'}\n",
        "1:10: server.listen: must be an address such as 127.0.0.1:8080, [::1]:8080, :8080, unix:/run/gateway.sock or systemd:hooks, "
        'not "0x7f.1:80"',
    ),
    ("server: {listen: 8080}\n", "1:10: server.listen: must be an address such as 127.0.0.1:8080, [::1]:8080, :8080, unix:/run/gateway.sock or systemd:hooks, not 8080"),
    ("server: {listen: 'h:65536'}\n", '1:10: server.listen: must be an address such as 127.0.0.1:8080, [::1]:8080, :8080, unix:/run/gateway.sock or systemd:hooks, not "h:65536"'),
    ("server: {listen: [':1', '256.0.0.1:80']}\n", '1:25: server.listen[1]: must be an address such as 127.0.0.1:8080, [::1]:8080, :8080, unix:/run/gateway.sock or systemd:hooks, not "256.0.0.1:80"'),
    ("server: {listen: 'unix:run/g.sock'}\n", '1:10: server.listen: must be unix: and the absolute path of a socket in at most 100 bytes, such as unix:/run/gateway.sock, not "unix:run/g.sock"'),
    ("server: {listen: 'unix:'}\n", '1:10: server.listen: must be unix: and the absolute path of a socket in at most 100 bytes, such as unix:/run/gateway.sock, not "unix:"'),
    ("server: {listen: 'unix:/run/'}\n", '1:10: server.listen: must be unix: and the absolute path of a socket in at most 100 bytes, such as unix:/run/gateway.sock, not "unix:/run/"'),
    ("server: {listen: 'unix:/run/..'}\n", '1:10: server.listen: must be unix: and the absolute path of a socket in at most 100 bytes, such as unix:/run/gateway.sock, not "unix:/run/.."'),
    ('server: {listen: "unix:/run/a\\0b"}\n', '1:10: server.listen: must be unix: and the absolute path of a socket in at most 100 bytes, such as unix:/run/gateway.sock, not "unix:/run/a\\u0000b"'),
    ("server: {listen: unix:/" + "é" * 50 + "}\n", '1:10: server.listen: must be unix: and the absolute path of a socket in at most 100 bytes, such as unix:/run/gateway.sock, not "unix:/' + "é" * 50 + '"'),
    ("server: {admin: 'unix:/run/a.sock'}\n", '1:10: server.admin: must be an address such as 127.0.0.1:9180, [::1]:9180, :9180 or systemd:admin (unix sockets are for server.listen alone), not "unix:/run/a.sock"'),
    ("server: {allow_from: 10.0.0.0/8}\n", '1:10: server.allow_from: must be a list, not "10.0.0.0/8"'),
    ("server: {allow_from: [10.0.0.0/33]}\n", '1:23: server.allow_from[0]: must be a network or an address such as 192.168.1.0/24, 192.168.1.10 or 2001:db8::/32, not "10.0.0.0/33"'),
    ("server: {allow_from: [10.0.0.0/255.0.0.0]}\n", '1:23: server.allow_from[0]: must be a network or an address such as 192.168.1.0/24, 192.168.1.10 or 2001:db8::/32, not "10.0.0.0/255.0.0.0"'),
    ("server: {allow_from: [10]}\n", "1:23: server.allow_from[0]: must be a network or an address such as 192.168.1.0/24, 192.168.1.10 or 2001:db8::/32, not 10"),
    ("server: {allow_from: [media.example.com]}\n", '1:23: server.allow_from[0]: must be a network or an address such as 192.168.1.0/24, 192.168.1.10 or 2001:db8::/32, not "media.example.com"'),
    ("server: {allow_from: ['::1', 10.1.2.3/8]}\n", '1:30: server.allow_from[1]: must have no bits beyond its prefix: write 10.0.0.0/8 for the network or 10.1.2.3 for that address alone, not "10.1.2.3/8"'),
    ("server: {allow_from: ['2001:db8::1/32']}\n", '1:23: server.allow_from[0]: must have no bits beyond its prefix: write 2001:db8::/32 for the network or 2001:db8::1 for that address alone, not "2001:db8::1/32"'),
    ("server: {allow_from: [" + "10.0.0.1, " * 1025 + "]}\n", "1:10: server.allow_from: must hold at most 1024 networks"),
    ("server: {listen: 'systemd:'}\n", '1:10: server.listen: must be systemd: and the FileDescriptorName= of a socket unit, at most 255 printable ASCII characters without a colon, such as systemd:hooks, not "systemd:"'),
    ("server: {admin: 'systemd:a:b'}\n", '1:10: server.admin: must be systemd: and the FileDescriptorName= of a socket unit, at most 255 printable ASCII characters without a colon, such as systemd:hooks, not "systemd:a:b"'),
    ("server: {listen: []}\n", "1:10: server.listen: must name at least one address"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_a_broken_rule_is_reported_once_at_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert [str(problem) for problem in caught.value.problems] == [f"gateway.yaml:{message}"]


def test_a_host_is_told_from_what_only_looks_like_one() -> None:
    assert [is_host(text) for text in ("::1", "1.2.3.4", "h.example", "fe80::1%eth0", "h.", "", "xn--zzzz99")] == [
        True, True, True, False, False, False, False,
    ]  # fmt: skip


def test_every_form_of_listen_is_a_tuple_of_addresses() -> None:
    assert loads("server: {listen: ':1'}\n").config.server.listen == (Address("", 1),)
    both = loads("server: {listen: ['0.0.0.0:1', '[::]:1', 'h:0', 'h:0']}\n").config.server.listen
    assert both == (Address("0.0.0.0", 1), Address("::", 1), Address("h", 0), Address("h", 0))
    assert loads("server: {listen: unix:/run/g.sock}\n").config.server.listen == (UnixAddress("/run/g.sock"),)
    assert loads("server: {listen: 'systemd:hooks'}\n").config.server.listen == (SystemdAddress("hooks"),)
    mixed = loads("server: {listen: [':1', unix:/a, unix:/b, 'systemd:c']}\n").config.server.listen
    assert mixed == (Address("", 1), UnixAddress("/a"), UnixAddress("/b"), SystemdAddress("c"))
    assert [type(address) for address in mixed] == [Address, UnixAddress, UnixAddress, SystemdAddress]


def test_allow_from_is_a_tuple_of_networks() -> None:
    server = loads("server: {allow_from: [10.0.0.0/8, 192.168.1.10, '2001:db8::/32']}\n").config.server
    assert server.allow_from == (
        IPv4Network("10.0.0.0/8"),
        IPv4Network("192.168.1.10/32"),
        IPv6Network("2001:db8::/32"),
    )
    assert len(loads(f"server: {{allow_from: [{'10.0.0.1, ' * 1024}]}}\n").config.server.allow_from) == 1024


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("[::1]:8080", Address("::1", 8080)),
        ("[0:0::1]:1", Address("::1", 1)),
        (":8080", Address("", 8080)),
        ("localhost:0", Address("localhost", 0)),
        ("media_1.example.com.:65535", Address("media_1.example.com.", 65535)),
    ],
)
def test_addresses_are_host_and_port(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["", "8080", "h", "h:", "h:-1", "h:65536", "h:٣", "::1:80", "[::1]80", "[]:80", "[h]:80", "1.2.3:80",
     "300.1.1.1:80",
     "a b:80", "a..b:80", "-a:80", "unix:/run/g.sock", "http://h:80", "a" * 64 + ":80", "h:000080"],
)  # fmt: skip
def test_anything_else_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be an address such as 127\.0\.0\.1:8080"):
        parse_address(text)


@given(st.text(max_size=80))
def test_an_address_that_is_taken_can_be_written_and_read_again(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert parse_address(str(address)) == address


@pytest.mark.parametrize("path", ["/run/gateway.sock", "/a", "/" + "é" * 49, "/a b:1", "/a/.b", "/..a"])
def test_a_unix_socket_is_listened_on_by_its_absolute_path(path: str) -> None:
    address = parse_listen_address(f"unix:{path}")
    assert address == UnixAddress(path)
    assert str(address) == f"unix:{path}"


@pytest.mark.parametrize(
    "path", ["", "a", "./a", "/", "//", "/a/", "/a/.", "/a/..", "/a\n", "/\0", "/\ud800", "/" * 9 + "a" * 92]
)
def test_anything_else_is_no_unix_socket(path: str) -> None:
    with pytest.raises(ValueError, match="must be unix: and the absolute path of a socket in at most 100 bytes"):
        parse_listen_address(f"unix:{path}")


@pytest.mark.parametrize("name", ["hooks", "wcs-gateway@blue.socket", "a b", "~" * 255])
def test_sockets_of_systemd_are_listened_on_by_their_name(name: str) -> None:
    for parse in (parse_listen_address, parse_admin_address):
        address = parse(f"systemd:{name}")
        assert address == SystemdAddress(name)
        assert str(address) == f"systemd:{name}"


@pytest.mark.parametrize("name", ["", "a:b", "a\n", "\x7f", "é", "a" * 256])
def test_what_systemd_takes_for_no_name_is_none(name: str) -> None:
    for parse in (parse_listen_address, parse_admin_address):
        with pytest.raises(ValueError, match=r"must be systemd: and the FileDescriptorName= of a socket unit"):
            parse(f"systemd:{name}")


def test_to_listen_on_takes_every_tcp_address_too() -> None:
    assert parse_listen_address("[::1]:8080") == Address("::1", 8080)
    with pytest.raises(ValueError, match=r"\[::1\]:8080, :8080, unix:/run/gateway\.sock or systemd:hooks"):
        parse_listen_address("UNIX:/a")


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        (":80", "127.0.0.1:80", True),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("0.0.0.0:80", "[::]:80", False),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        (":80", ":81", False),
        (":0", ":0", False),
        ("unix:/a/b", "unix:/a//./b", True),
        ("unix:/a", "unix://a", True),
        ("unix:/a", "unix:/b", False),
        ("unix:/a", ":80", False),
        ("systemd:a", "systemd:a", True),
        ("systemd:a", "systemd:A", False),
        ("systemd:/a", "unix:/a", False),
        ("systemd:a", ":80", False),
    ],
)
def test_addresses_that_cannot_both_be_listened_on(one: str, other: str, clash: bool) -> None:
    first, second = parse_listen_address(one), parse_listen_address(other)
    assert overlap(first, second) is clash
    assert overlap(second, first) is clash


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.255.0.9", True), ("::1", True), ("localhost", True), ("LocalHost.", True),
        ("", False), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("localhost.example.com", False),
    ],
)  # fmt: skip
def test_only_what_this_machine_alone_can_reach_is_loopback(host: str, loopback: bool) -> None:
    assert Address(host, 1).is_loopback is loopback


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.0/8", IPv4Network("10.0.0.0/8")),
        ("192.168.1.10", IPv4Network("192.168.1.10/32")),
        ("0.0.0.0/0", IPv4Network("0.0.0.0/0")),
        ("2001:DB8::/32", IPv6Network("2001:db8::/32")),
        ("::1", IPv6Network("::1/128")),
        ("::/0", IPv6Network("::/0")),
        ("::ffff:10.0.0.0/104", IPv4Network("10.0.0.0/8")),
        ("::ffff:192.168.1.10", IPv4Network("192.168.1.10/32")),
    ],
)
def test_networks_are_read_and_those_of_mapped_addresses_are_ipv4(
    text: str, network: IPv4Network | IPv6Network
) -> None:
    assert parse_network(text) == network


@pytest.mark.parametrize(
    "text",
    ["", "10", "10.0.0/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/255.0.0.0", "010.0.0.0/8",
     " 10.0.0.0/8", "10.0.0.0/8\n", "10.0.0.0/٨", "::/129", "fe80::%eth0/64", "fe80::1%1", "[::1]", "localhost",
     "10.0.0.0/8,::/0"],
)  # fmt: skip
def test_anything_else_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match="must be a network or an address such as"):
        parse_network(text)


@given(st.ip_addresses(), st.integers(0, 128))
def test_a_network_is_taken_as_it_is_and_otherwise_named_in_the_message(address: object, prefix: int) -> None:
    text = f"{address}/{min(prefix, 32) if '.' in str(address) and ':' not in str(address) else prefix}"
    meant = ip_network(text, strict=False)
    if str(meant.network_address) != str(address):
        with pytest.raises(ValueError, match=f"write {meant} for the network or {address} for that address alone"):
            parse_network(text)
    assert parse_network(str(meant)).num_addresses == meant.num_addresses
