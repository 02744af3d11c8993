"""Who may ask: the rules for addresses, credentials and signatures, each by itself."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.config import loads
from gateway.policy.access import (
    BasicCredentials,
    ClientAddresses,
    Signature,
    UnauthorizedError,
    body_signature,
    signature_header,
)
from gateway.proxy.routes import Guard

BODY: Final = b'{"appKey":"defaultApp","nodeId":"n"}'
KEY: Final = "key-of-the-media-server"
GIVEN: Final = [(b"host", b"gateway"), (b"content-type", b"application/json")]
ROOT: Final = Path(__file__).parent.parent.parent


ipv4s = st.ip_addresses(v=4)
ipv6s = st.ip_addresses(v=6).filter(lambda address: getattr(address, "ipv4_mapped", None) is None)
words = st.text(st.characters(codec="utf-8", exclude_characters=":", exclude_categories=["Cc"]), min_size=1)
keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=100)
bodies = st.binary(max_size=300)


def allowed(*networks: str) -> ClientAddresses:
    """As the configuration makes them."""
    text = f"server: {{allow_from: {list(networks)}}}\n"
    return ClientAddresses(loads(text, "gateway.yaml").config.server.allow_from)


def authorization(*values: bytes) -> list[tuple[bytes, bytes]]:
    return [*GIVEN, *((b"authorization", value) for value in values)]


def basic(userpass: bytes, scheme: bytes = b"Basic") -> bytes:
    return scheme + b" " + b64encode(userpass)


def is_let_in(guard: Guard, headers: Sequence[tuple[bytes, bytes]], body: bytes = BODY) -> bool:
    try:
        guard.check(headers, body)
    except UnauthorizedError:
        return False
    return True


# --- addresses ---


@pytest.mark.parametrize(
    ("networks", "peer", "verdict"),
    [
        (["192.168.1.0/24"], "192.168.1.1", True),
        (["192.168.1.0/24"], "192.168.1.255", True),
        (["192.168.1.0/24"], "192.168.2.0", False),
        (["192.168.1.0/24"], "127.0.0.1", False),
        (["10.0.0.1"], "10.0.0.1", True),
        (["10.0.0.1"], "10.0.0.2", False),
        (["10.0.0.1", "2001:db8::/32"], "2001:db8:ffff::1", True),
        (["10.0.0.1", "2001:db8::/32"], "2001:db9::1", False),
        (["10.0.0.1", "2001:db8::/32"], "10.0.0.1", True),
        (["127.0.0.0/8"], "::ffff:127.0.0.1", True),
        (["127.0.0.0/8"], "::1", False),
        (["::ffff:192.168.1.0/120"], "192.168.1.7", True),
        (["::ffff:192.168.1.0/120"], "::ffff:192.168.1.7", True),
        (["::1"], "127.0.0.1", False),
        (["::/0"], "192.0.2.1", False),
        (["::/0"], "::ffff:192.0.2.1", False),
        (["0.0.0.0/0"], "::ffff:192.0.2.1", True),
        (["0.0.0.0/0"], "2001:db8::1", False),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["fe80::/10"], "fe90::1%eth0", True),
        (["fe80::1"], "fe80::2%eth0", False),
    ],
)
def test_a_peer_is_let_in_by_the_networks_of_its_own_family_only(networks: list[str], peer: str, verdict: bool) -> None:
    assert allowed(*networks).allows((peer, 50000)) is verdict


@pytest.mark.parametrize(
    "peer", ["", "localhost", "10.0.0.1.evil", "10.0.0", "010.0.0.1", "10.0.0.1 ", "::ffff:10.0.0"]
)
def test_what_is_no_address_is_in_no_network(peer: str) -> None:
    assert not allowed("0.0.0.0/0", "::/0").allows((peer, 1))


def test_an_empty_list_lets_everyone_in() -> None:
    assert ClientAddresses().allows(("192.0.2.1", 1))
    assert allowed().allows(("not even an address", 1))


def test_a_trusted_proxy_is_admitted_though_no_hook_may_come_from_it() -> None:
    text = (
        "server: {allow_from: [192.0.2.0/24], trusted_proxies: [10.0.0.5, '2001:db8::/64'], proxy_protocol: [10.0.0.6]}"
    )
    server = loads(text, "gateway.yaml").config.server
    addresses = ClientAddresses(server.allow_from, server.trusted_proxies, server.proxy_protocol)

    def said(address: str) -> tuple[bool, ...]:
        peer = (address, 1)
        checks = (addresses.allows, addresses.trusts, addresses.admits, addresses.expects_header)
        return tuple(check(peer) for check in checks)

    assert said("192.0.2.1") == (True, False, True, False)
    assert said("10.0.0.5") == said("::ffff:10.0.0.5") == said("2001:db8::1%eth0") == (False, True, True, False)
    assert said("10.0.0.6") == (False, False, False, True)
    assert said("10.0.0.7") == said("nonsense") == (False, False, False, False)


def test_nobody_is_trusted_or_has_to_send_a_header_by_default_and_nobody_on_a_unix_socket() -> None:
    by_default, everywhere = ClientAddresses(), ClientAddresses((), *[[ipaddress.ip_network("0.0.0.0/0")]] * 2)
    for addresses, peer in ((by_default, ("192.0.2.1", 1)), (by_default, None), (everywhere, None)):
        assert not addresses.trusts(peer)
        assert not addresses.expects_header(peer)
        assert addresses.admits(peer)


def test_a_peer_on_a_unix_socket_has_been_let_in_by_its_file() -> None:
    assert allowed("192.168.1.0/24").allows(None)


@given(ipv4s, st.integers(0, 32), ipv4s)
def test_an_ipv4_peer_is_in_a_network_if_and_only_if_their_first_bits_agree(
    base: ipaddress.IPv4Address, prefix: int, peer: ipaddress.IPv4Address
) -> None:
    network = ipaddress.IPv4Network((int(base), prefix), strict=False)
    same = int(base) >> (32 - prefix) == int(peer) >> (32 - prefix)
    addresses = ClientAddresses([network])
    assert addresses.allows((str(peer), 1)) is same
    assert addresses.allows((f"::ffff:{peer}", 1)) is same


@given(ipv6s, st.integers(0, 128), ipv6s)
def test_an_ipv6_peer_is_in_a_network_if_and_only_if_their_first_bits_agree(
    base: ipaddress.IPv6Address, prefix: int, peer: ipaddress.IPv6Address
) -> None:
    network = ipaddress.IPv6Network((int(base), prefix), strict=False)
    addresses = ClientAddresses([network])
    assert addresses.allows((str(peer), 1)) is (int(base) >> (128 - prefix) == int(peer) >> (128 - prefix))


@given(st.text(max_size=60))
def test_no_text_for_a_peer_s_address_raises(peer: str) -> None:
    assert allowed("192.0.2.0/24").allows((peer, 1)) in (True, False)


# --- credentials ---


@pytest.mark.parametrize("scheme", [b"Basic", b"basic", b"BASIC", b"bAsIc"])
@pytest.mark.parametrize("spaces", [b" ", b"  ", b" \t"])
def test_the_credentials_are_known_under_any_case_of_their_scheme(scheme: bytes, spaces: bytes) -> None:
    value = scheme + spaces + b64encode(b"wcs:secret")
    BasicCredentials("wcs", "secret").check(authorization(value), BODY)


@pytest.mark.parametrize(
    ("values", "detail"),
    [
        ([], "carries no Basic"),
        ([b""], "carries no Basic"),
        ([b"Basic"], "are wrong"),
        ([b"Basic "], "are wrong"),
        ([basic(b"wcs:Secret")], "are wrong"),
        ([basic(b"WCS:secret")], "are wrong"),
        ([basic(b"wcs:secret ")], "are wrong"),
        ([basic(b"wcs:secret\0")], "are wrong"),
        ([basic(b"wcs")], "are wrong"),
        ([basic(b"secret:wcs")], "are wrong"),
        ([basic(b":")], "are wrong"),
        ([basic(b"wcs:secret")[:-1]], "are wrong"),
        ([basic(b"wcs:secret") + b"="], "are wrong"),
        ([basic(b"wcs:secret") + b"!"], "are wrong"),
        ([basic(b"wcs:secret") + b", Basic x"], "are wrong"),
        ([b"Basic wcs:secret"], "are wrong"),
        ([b"Basic \xff\xfe"], "are wrong"),
        ([basic(b"wcs:secret", b"Bearer")], "carries no Basic"),
        ([basic(b"wcs:secret", b"WCS")], "carries no Basic"),
        ([b"Basic" + b64encode(b"wcs:secret")], "carries no Basic"),
        ([b64encode(b"wcs:secret")], "carries no Basic"),
        ([basic(b"wcs:secret"), basic(b"wcs:secret")], "carries no Basic"),
        ([basic(b"wcs:wrong"), basic(b"wcs:secret")], "carries no Basic"),
    ],
)  # fmt: skip
def test_anything_but_exactly_these_credentials_is_refused(values: list[bytes], detail: str) -> None:
    with pytest.raises(UnauthorizedError, match=detail) as refused:
        BasicCredentials("wcs", "secret").check(authorization(*values), BODY)
    assert refused.value.challenge.startswith(b"Basic realm=")


def test_a_password_may_hold_colons_and_any_letters() -> None:
    guard = BasicCredentials("wcs", "a:b:ü🔑")
    assert is_let_in(guard, authorization(basic("wcs:a:b:ü🔑".encode())))
    assert not is_let_in(guard, authorization(basic(b"wcs:a")))


@given(words, words)
def test_whatever_the_credentials_are_they_open(username: str, password: str) -> None:
    userpass = f"{username}:{password}".encode()
    assert is_let_in(BasicCredentials(username, password), authorization(basic(userpass)))


@given(words, words, st.binary(max_size=60))
def test_no_other_user_and_password_open(username: str, password: str, other: bytes) -> None:
    assume(other != f"{username}:{password}".encode())
    assert not is_let_in(BasicCredentials(username, password), authorization(basic(other)))


@given(st.binary(max_size=80))
def test_no_bytes_in_the_authorization_raise_anything_but_a_refusal(value: bytes) -> None:
    assert not is_let_in(BasicCredentials("wcs", "secret-of-some-length"), authorization(value))
    assert not is_let_in(BasicCredentials("wcs", "secret-of-some-length"), authorization(b"Basic " + value))
    assert not is_let_in(Signature([KEY]), authorization(value))
    assert not is_let_in(Signature([KEY]), authorization(b"WCS " + value))


def test_what_is_said_about_refused_credentials_has_none_of_them() -> None:
    with pytest.raises(UnauthorizedError) as refused:
        BasicCredentials("wcs-user", "good-secret").check(authorization(basic(b"wcs-user:bad-secret")), BODY)
    said = f"{refused.value} {refused.value.challenge!r}"
    assert not any(word in said for word in ("wcs-user", "good-secret", "bad-secret"))


# --- signatures ---


def test_a_signature_is_the_hmac_md5_of_rfc_2202() -> None:
    # Its first two test cases.
    assert body_signature(b"Hi There", b"\x0b" * 16) == b"9294727a3638bb1c13f48ef8158bfc9d"
    assert body_signature(b"what do ya want for nothing?", b"Jefe") == b"750c783e6ab0b503eaa86e310a5db738"


@given(keys, bodies)
def test_a_signature_is_what_the_standard_library_s_long_way_makes(key: str, body: bytes) -> None:
    expected = hmac.new(key.encode(), body, hashlib.md5).hexdigest().encode()
    assert body_signature(body, key.encode()) == expected
    assert signature_header(body, key.encode()) == (b"authorization", b"WCS " + expected)


@given(st.lists(keys, min_size=1, max_size=8, unique=True), bodies, st.data())
def test_each_of_the_keys_opens(several: list[str], body: bytes, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(several))
    assert is_let_in(Signature(several), [*GIVEN, signature_header(body, key.encode())], body)


@given(keys, keys, bodies)
def test_no_other_key_opens(key: str, other: str, body: bytes) -> None:
    # HMAC fills a key up with NULs, and hashes one that is longer than a block (RFC 2104, section 2).
    assume(key.encode().rstrip(b"\0") != other.encode().rstrip(b"\0"))
    assert not is_let_in(Signature([key]), [*GIVEN, signature_header(body, other.encode())], body)


@given(st.binary(min_size=1, max_size=300), st.data())
def test_one_bit_more_or_less_in_the_body_and_the_signature_is_not_its(body: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(body) * 8 - 1))
    changed = bytearray(body)
    changed[at // 8] ^= 1 << at % 8
    assert not is_let_in(Signature([KEY]), [signature_header(body, KEY.encode())], bytes(changed))
    assert not is_let_in(Signature([KEY]), [signature_header(body, KEY.encode())], body + b" ")
    assert not is_let_in(Signature([KEY]), [signature_header(body, KEY.encode())], body[:-1])


@pytest.mark.parametrize("scheme", [b"WCS", b"wcs", b"Wcs"])
@pytest.mark.parametrize("change", [bytes.lower, bytes.upper, bytes.swapcase])
def test_the_signature_s_hex_digits_and_scheme_may_have_any_case(scheme: bytes, change: object) -> None:
    assert callable(change)
    value = scheme + b" " + change(body_signature(BODY, KEY.encode()))
    Signature([KEY]).check(authorization(value), BODY)


@pytest.mark.parametrize(
    ("values", "detail"),
    [
        ([], "carries no WCS"),
        ([b"WCS"], "is not that of the body"),
        ([b"WCS " + body_signature(BODY, KEY.encode())[:-1]], "is not that of the body"),
        ([b"WCS " + body_signature(BODY, KEY.encode()) + b"0"], "is not that of the body"),
        ([b"WCS 0x" + body_signature(BODY, KEY.encode())], "is not that of the body"),
        ([b"WCS " + b"\xc3\xa0" + body_signature(BODY, KEY.encode())[1:]], "is not that of the body"),
        ([b"WCS " + b64encode(bytes.fromhex(body_signature(BODY, KEY.encode()).decode()))], "is not that of the body"),
        ([b"WCS " + hashlib.md5(BODY).hexdigest().encode()], "is not that of the body"),
        ([b"WCS " + hashlib.md5(KEY.encode() + BODY).hexdigest().encode()], "is not that of the body"),
        ([b"HMAC " + body_signature(BODY, KEY.encode())], "carries no WCS"),
        ([body_signature(BODY, KEY.encode())], "carries no WCS"),
        ([signature_header(BODY, KEY.encode())[1]] * 2, "carries no WCS"),
    ],
)  # fmt: skip
def test_anything_but_the_signature_of_this_body_is_refused(values: list[bytes], detail: str) -> None:
    with pytest.raises(UnauthorizedError, match=detail) as refused:
        Signature([KEY]).check(authorization(*values), BODY)
    assert refused.value.challenge == b"WCS"


def test_no_key_at_all_opens_nothing() -> None:
    assert not is_let_in(Signature([]), [signature_header(BODY, b"")], BODY)


def test_secrets_are_compared_in_constant_time_alone() -> None:
    # The one way to compare two secrets in this module; an == would tell how far a guess was right.
    text = (ROOT / "gateway" / "policy" / "access.py").read_text()
    assert text.count("hmac.compare_digest(") == 2
    assert not re.search(
        r"(?:given|userpass|_expected|body_signature\([^)]*\))\s*[!=]=|[!=]=\s*(?:given|userpass)", text
    )


def test_what_a_guard_holds_is_not_in_its_repr() -> None:
    shown = f"{BasicCredentials('wcs', 'hidden-password')!r} {Signature(['hidden-key'])!r}"
    assert "hidden" not in shown


@given(st.text(max_size=20).filter(lambda name: ":" not in name), st.text(max_size=20))
def test_what_a_guard_would_send_is_what_it_lets_in(username: str, password: str) -> None:
    guard = BasicCredentials(username, password)
    guard.check([guard.header(BODY)], BODY)


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=3), st.binary(max_size=60))
def test_a_body_that_it_signs_is_one_that_it_lets_in(keys: list[str], body: bytes) -> None:
    guard = Signature(keys)
    guard.check([guard.header(body)], body)
    Signature(keys[:1]).check([guard.header(body)], body)
