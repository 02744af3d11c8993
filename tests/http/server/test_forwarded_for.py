"""Whose address X-Forwarded-For brings: the rightmost one that is no trusted proxy, and nothing to its left."""

from __future__ import annotations

import ipaddress
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.server.forwarded_for import MAX_PROXIES, NOT_FROM_HERE, forwarded_client
from gateway.http.server.head import NotAllowed
from gateway.policy.access import ClientAddresses

Client = tuple[str, int] | None

PROXY: Final = ("192.0.2.5", 40000)
MALFORMED: Final = "X-Forwarded-For has an entry that is not an IP address"
TRUSTED: Final = [ipaddress.ip_network(text) for text in ("192.0.2.0/24", "2001:db8:5::/48")]
MEDIA: Final = [ipaddress.ip_network(text) for text in ("203.0.113.0/24", "2001:db8:7::/48")]
EVERYONE: Final = ClientAddresses((), TRUSTED)
LISTED: Final = ClientAddresses(MEDIA, TRUSTED)


def found(*values: bytes, addresses: ClientAddresses = LISTED) -> Client | str:
    """The client, or the words of the refusal."""
    headers = [(b"host", b"gw"), *((b"x-forwarded-for", value) for value in values), (b"accept", b"*/*")]
    try:
        return forwarded_client(headers, PROXY, addresses)
    except NotAllowed as exc:
        return exc.detail


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([b"203.0.113.7"], ("203.0.113.7", 0)),
        ([b" \t203.0.113.7\t "], ("203.0.113.7", 0)),
        ([b"203.0.113.7:567"], ("203.0.113.7", 567)),
        ([b"203.0.113.7:0"], ("203.0.113.7", 0)),
        ([b"2001:db8:7::1"], ("2001:db8:7::1", 0)),
        ([b"2001:DB8:7:0::1"], ("2001:db8:7::1", 0)),
        ([b"[2001:db8:7::1]"], ("2001:db8:7::1", 0)),
        ([b"[2001:db8:7::1]:65535"], ("2001:db8:7::1", 65535)),
        ([b"::ffff:203.0.113.7"], ("203.0.113.7", 0)),
        ([b"[::ffff:203.0.113.7]:9"], ("203.0.113.7", 9)),
        ([b"203.0.113.7, 192.0.2.9"], ("203.0.113.7", 0)),
        ([b"203.0.113.7,192.0.2.9:1 ,\t[2001:db8:5::1]:2"], ("203.0.113.7", 0)),
        ([b"203.0.113.7, ::ffff:192.0.2.9"], ("203.0.113.7", 0)),
        ([b"198.51.100.1, 203.0.113.7"], ("203.0.113.7", 0)),
        ([b"203.0.113.7, 198.51.100.1"], NOT_FROM_HERE),
        ([b"203.0.113.7", b"198.51.100.1"], NOT_FROM_HERE),
        ([b"198.51.100.1", b"203.0.113.7", b"192.0.2.9, 192.0.2.8"], ("203.0.113.7", 0)),
        ([b"<script>, '; drop, 203.0.113.7"], ("203.0.113.7", 0)),
        ([b"192.0.2.9"], NOT_FROM_HERE),  # all are proxies: the first of them is the client, and not listed
        ([], NOT_FROM_HERE),  # the proxy itself
        ([b""], MALFORMED),
        ([b","], MALFORMED),
        ([b"203.0.113.7,"], MALFORMED),
        ([b"203.0.113.7", b""], MALFORMED),
        ([b"203.0.113.7, , 192.0.2.9"], MALFORMED),
        ([b"203.0.113.7, unknown"], MALFORMED),
        ([b"203.0.113.7, _hidden"], MALFORMED),
        ([b"203.0.113.7, for=192.0.2.9"], MALFORMED),
        ([b"203.0.113.7 192.0.2.9"], MALFORMED),
        ([b'"203.0.113.7"'], MALFORMED),
        ([b"203.0.113.7."], MALFORMED),
        ([b"203.0.113"], MALFORMED),
        ([b"203.0.113.07"], MALFORMED),
        ([b"203.0.113.256"], MALFORMED),
        ([b"3405803783"], MALFORMED),
        ([b"0xcb007107"], MALFORMED),
        ([b"203.0.113.7:"], MALFORMED),
        ([b"203.0.113.7:65536"], MALFORMED),
        ([b"203.0.113.7:123456"], MALFORMED),
        ([b"203.0.113.7:+1"], MALFORMED),
        ([b"203.0.113.7/32"], MALFORMED),
        ([b"[203.0.113.7]"], MALFORMED),
        ([b"[2001:db8:7::1"], MALFORMED),
        ([b"2001:db8:7::1]"], MALFORMED),
        ([b"[2001:db8:7::1]x"], MALFORMED),
        ([b"[2001:db8:7::1%eth0]"], MALFORMED),
        ([b"fe80::1%1"], MALFORMED),
        ([b"2001:db8:7::1::2"], MALFORMED),
        ([b"\xd9\xa1.2.3.4"], MALFORMED),
        ([b"media.example.com"], MALFORMED),
    ],
)
def test_the_client_is_the_rightmost_address_that_is_no_trusted_proxy(
    values: list[bytes], expected: Client | str
) -> None:
    assert found(*values) == expected
    assert found(*values) == expected, "remembered"


def test_without_a_list_of_media_servers_every_client_counts_and_a_malformed_entry_still_does_not() -> None:
    assert found(b"198.51.100.1", addresses=EVERYONE) == ("198.51.100.1", 0)
    assert found(b"192.0.2.9", addresses=EVERYONE) == ("192.0.2.9", 0)
    assert found(addresses=EVERYONE) == PROXY
    assert found(b"unknown", addresses=EVERYONE) == MALFORMED


def test_the_refusal_carries_the_client_for_the_log() -> None:
    for value, client in ((b"198.51.100.1:9", ("198.51.100.1", 9)), (b"unknown", None)):
        with pytest.raises(NotAllowed) as caught:
            forwarded_client([(b"x-forwarded-for", value)], PROXY, LISTED)
        assert (caught.value.status, caught.value.client) == (403, client)


def test_more_trusted_proxies_than_any_hook_passes_are_refused() -> None:
    proxies = [b"192.0.2.9"] * MAX_PROXIES
    assert found(b", ".join([b"203.0.113.7", *proxies])) == ("203.0.113.7", 0)
    too_many = f"X-Forwarded-For names more than {MAX_PROXIES} trusted proxies"
    assert found(b", ".join([b"203.0.113.7", b"192.0.2.9", *proxies])) == too_many
    assert found(b"203.0.113.7", *[b"192.0.2.9"] * 9000) == too_many


def test_each_configuration_judges_by_its_own_lists() -> None:
    other = ClientAddresses([ipaddress.ip_network("198.51.100.0/24")], TRUSTED)
    for _ in range(2):
        assert found(b"203.0.113.7") == ("203.0.113.7", 0)
        assert found(b"203.0.113.7", addresses=other) == NOT_FROM_HERE
        assert found(b"203.0.113.7, 192.0.2.9", addresses=ClientAddresses()) == ("192.0.2.9", 0)


# --- properties ---

any_address = st.ip_addresses().map(str)
members = [st.ip_addresses(network=network).map(str) for network in (*TRUSTED, *MEDIA)]
some_address = st.one_of(any_address, *members)
junk = st.one_of(
    st.text('0123456789abcdef.:[]%" \t_unk,', max_size=20).map(str.encode),
    st.binary(max_size=20).map(lambda data: data.translate(None, b"\r\n\0")),
)
prefixes = st.one_of(junk, st.lists(some_address, min_size=1, max_size=4).map(lambda it: ", ".join(it).encode()))


def is_trusted(text: str) -> bool:
    return EVERYONE.trusts((text, 0))


@given(
    prefix=prefixes,
    client=some_address.filter(lambda text: not is_trusted(text)),
    proxies=st.lists(st.one_of(*members[:2]), max_size=4),
    lines=st.booleans(),
)
def test_what_an_attacker_writes_before_the_address_that_a_proxy_saw_changes_nothing(
    prefix: bytes, client: str, proxies: list[str], lines: bool
) -> None:
    own = ", ".join([client, *proxies]).encode()
    expected = found(own)
    assert expected == NOT_FROM_HERE or LISTED.allows((client, 0))
    assert (found(prefix, own) if lines else found(prefix + b"," + own)) == expected


@given(entries=st.lists(some_address, min_size=1, max_size=6))
def test_it_is_what_a_plain_reading_from_the_end_finds(entries: list[str]) -> None:
    client = next((entry for entry in reversed(entries) if not is_trusted(entry)), entries[0])
    parsed = ipaddress.ip_address(client)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    assert found(",".join(entries).encode(), addresses=EVERYONE) == (str(mapped or parsed), 0)


@given(value=junk)
def test_anything_is_an_address_or_refused(value: bytes) -> None:
    client = found(value, addresses=EVERYONE)
    if isinstance(client, tuple):
        ipaddress.ip_address(client[0])
    else:
        assert client == MALFORMED
