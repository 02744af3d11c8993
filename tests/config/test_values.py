"""Durations, sizes, addresses and secrets as text."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gateway.config import (
    Address,
    UnixAddress,
    format_duration,
    parse_address,
    parse_duration,
    parse_listen_address,
    parse_size,
)
from gateway.config.sections.addresses import overlap, parse_network


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("3s", 3.0), ("1.5s", 1.5), ("2m", 120.0), ("1h", 3600.0), ("0s", 0.0), ("0.5ms", 0.0005)],
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "3", "3 s", "s", "-1s", "+1s", "1m30s", "3S", "1e3s", ".5s", "1.s", "٣s", "3s\n", "9" * 99 + "s"]
)
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration such as 3s or 250ms"):
        parse_duration(text)


@given(st.integers(0, 10**9))
def test_a_duration_of_whole_milliseconds_survives_the_round_trip(milliseconds: int) -> None:
    seconds = parse_duration(f"{milliseconds}ms") if milliseconds < 10**9 else 1e6
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.25, "250ms"),
        (1.5, "1.5s"),
        (59.0, "59s"),
        (60.0, "1m"),
        (90.0, "90s"),
        (7200.0, "2h"),
        (14.5, "14.5s"),
    ],
)
def test_a_duration_is_written_as_an_operator_would(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("text", "size"), [("512B", 512), ("64KiB", 65536), ("1MiB", 1048576), ("1GiB", 1 << 30)])
def test_sizes_are_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "64", "64kb", "64KB", "1.5MiB", "-1B", "1 MiB", "9" * 50 + "B"])
def test_anything_else_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="must be a size such as 64KiB or 1MiB"):
        parse_size(text)


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


def test_to_listen_on_takes_every_tcp_address_too() -> None:
    assert parse_listen_address("[::1]:8080") == Address("::1", 8080)
    with pytest.raises(ValueError, match=r"\[::1\]:8080, :8080 or unix:/run/gateway\.sock"):
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


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = SecretStr("hunter2")
    assert secret.get_secret_value() == "hunter2"
    shown = [str(secret), repr(secret), f"{secret}", f"{secret!r:>5}", "%s" % secret, repr({"password": secret})]  # noqa: UP031
    assert "hunter2" not in "".join(shown)
    assert str(secret) == "**********"
    assert repr(secret) == "SecretStr('**********')"


def test_secrets_compare_by_what_they_hold() -> None:
    assert SecretStr("é") == SecretStr("é")
    assert SecretStr("a") != SecretStr("b")
    assert SecretStr("a") != "a"
    assert hash(SecretStr("a")) == hash(SecretStr("a"))
    assert not SecretStr("")
