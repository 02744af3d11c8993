"""Finds the client for which a trusted proxy sends a request: X-Forwarded-For, read from its end.

Each proxy appends the address that it saw. So the rightmost entry that is no trusted proxy was written by one that is,
and everything before it by somebody else: that is never looked at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from gateway.http.server.head import NotAllowed
from gateway.policy.access import ClientAddresses

NOT_FROM_HERE: Final = "hooks are not taken from this address"
MAX_PROXIES: Final = 32
"""Trusted proxies in one field, at most: what follows them would cost as much as its sender likes."""
_REMEMBERED: Final = 64
"""Fields whose client is remembered."""
_LONGEST_REMEMBERED: Final = 256
"""Bytes of the longest field that is remembered."""
_entry = re.compile(
    rb"[ \t]*(?:([0-9.]{7,15})|\[([0-9A-Fa-f:.]{2,45})\]|([0-9A-Fa-f:.]{2,45}))(?(3)|(?::([0-9]{1,5}))?)[ \t]*"
).fullmatch

Found = tuple[tuple[str, int] | None, str]
"""A client, if there is one, and why hooks are not taken from it; empty = they are."""


def forwarded_client(
    headers: Sequence[tuple[bytes, bytes]], proxy: tuple[str, int] | None, addresses: ClientAddresses
) -> tuple[str, int] | None:
    """The address and port (0 if unknown) of the client that a request with these *headers* comes from.

    *headers* have names in lower case; *proxy* is the trusted proxy that sent them. It is the client itself where it
    names none. Raises NotAllowed where the field is malformed, or hooks are not taken from the client.
    """
    values = [value for name, value in headers if name == b"x-forwarded-for"]
    if not values:
        client, problem = proxy, "" if addresses.allows(proxy) else NOT_FROM_HERE
    else:
        value = values[0] if len(values) == 1 else b",".join(values)  # RFC 9110, section 5.3
        client, problem = _judge(value, addresses) if len(value) <= _LONGEST_REMEMBERED else _find(value, addresses)
    if problem:
        refusal = NotAllowed(403, problem)
        refusal.client = client
        raise refusal
    return client


def _find(value: bytes, addresses: ClientAddresses) -> Found:
    """The client that a field's value names."""
    client: tuple[str, int] | None = None
    for number, entry in enumerate(reversed(value.rsplit(b",", MAX_PROXIES + 1))):
        if number > MAX_PROXIES:
            return None, f"X-Forwarded-For names more than {MAX_PROXIES} trusted proxies"
        client = _read_entry(entry)
        if client is None:
            return None, "X-Forwarded-For has an entry that is not an IP address"
        if not addresses.trusts(client):
            break
    return client, "" if addresses.allows(client) else NOT_FROM_HERE


_judge = lru_cache(_REMEMBERED)(_find)


def _read_entry(entry: bytes) -> tuple[str, int] | None:
    """``192.0.2.1``, ``192.0.2.1:567``, ``2001:db8::1``, ``[2001:db8::1]``, ``[2001:db8::1]:567``; None = none of them.

    An IPv4-mapped IPv6 address is the IPv4 address that it is (RFC 4291, section 2.5.5.2).
    """
    match = _entry(entry)
    if match is None:
        return None
    four, bracketed, six, port = match.groups()
    if port is not None and int(port) > 0xFFFF:
        return None
    try:
        if four is not None:
            host = str(IPv4Address(four.decode("ascii")))
        else:
            address = IPv6Address((bracketed or six).decode("ascii"))
            host = str(address.ipv4_mapped or address)
    except ValueError:
        return None
    return host, int(port or 0)
