"""Who may send hooks: addresses, HTTP Basic credentials, and the media server's own signature of a hook's body.

Comparisons take the same time whether they fail at the first byte or at the last.
"""

from __future__ import annotations

import binascii
import hmac
import ipaddress
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Headers = Iterable[tuple[bytes, bytes]]
Client = tuple[str, int] | None
"""A peer's address and port; None on a unix socket."""


class ClientAddresses:
    """Who may send hooks, and whose word is taken for a client's address: what one configuration says of addresses.

    *allowed*: the media servers' networks; empty = any address. *trusted_proxies*: proxies whose X-Forwarded-For is
    believed. *proxy_protocol*: balancers whose connections begin with a PROXY header. On a unix socket, the permissions
    of its file decide, and nobody else's word is taken.
    """

    def __init__(
        self,
        allowed: Sequence[Network] = (),
        trusted_proxies: Sequence[Network] = (),
        proxy_protocol: Sequence[Network] = (),
    ) -> None:
        self._allowed = tuple(allowed)
        self._trusted_proxies = tuple(trusted_proxies)
        self._proxy_protocol = tuple(proxy_protocol)

    @property
    def everyone(self) -> bool:
        """Whether no address is listed: hooks may come from any."""
        return not self._allowed

    def allows(self, client: Client) -> bool:
        """Whether hooks may come from this client."""
        return not self._allowed or client is None or _is_in(client[0], self._allowed)

    def trusts(self, client: Client) -> bool:
        """Whether it is a proxy whose X-Forwarded-For is believed."""
        return bool(self._trusted_proxies) and client is not None and _is_in(client[0], self._trusted_proxies)

    def admits(self, client: Client) -> bool:
        """Whether its connections are served: hooks may come from it, or it may bring those of others."""
        return self.allows(client) or self.trusts(client)

    def expects_header(self, peer: Client) -> bool:
        """Whether this peer's connections begin with a PROXY header."""
        return bool(self._proxy_protocol) and peer is not None and _is_in(peer[0], self._proxy_protocol)


def _is_in(host: str, networks: Sequence[Network]) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped  # an IPv4 peer on a socket that takes both
    return any(address in network for network in networks)


class UnauthorizedError(Exception):
    """The hook lacks valid credentials; ``challenge`` is the value of the answer's WWW-Authenticate."""

    def __init__(self, detail: str, challenge: bytes) -> None:
        super().__init__(detail)
        self.challenge = challenge


class BasicCredentials:
    """HTTP Basic (RFC 7617) as the media server sends it: an app's restUsername and restPassword."""

    CHALLENGE = b'Basic realm="wcs-gateway", charset="UTF-8"'

    def __init__(self, username: str, password: str) -> None:
        self._expected = f"{username}:{password}".encode()

    def header(self, body: bytes) -> tuple[bytes, bytes]:
        """The header field with which the media server sends a hook."""
        return b"authorization", b"Basic " + b64encode(self._expected)

    def check(self, headers: Headers, body: bytes) -> None:
        """Raise UnauthorizedError unless the hook has exactly these credentials."""
        scheme, given = _authorization(headers)
        try:
            userpass = b64decode(given, validate=True) if scheme == b"basic" else b""
        except binascii.Error:
            userpass = b""
        if not hmac.compare_digest(userpass, self._expected):
            what = "the hook carries no Basic credentials" if scheme != b"basic" else "the credentials are wrong"
            raise UnauthorizedError(what, self.CHALLENGE)


class Signature:
    """``Authorization: WCS <hex HMAC-MD5 of the body>``: the media server's rest_hook_send_hash.

    Several keys may be valid at once, so that one can be replaced without losing a hook.
    """

    CHALLENGE = b"WCS"

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def header(self, body: bytes) -> tuple[bytes, bytes]:
        """The header field with which the media server sends a hook; of several keys, the first is used."""
        return signature_header(body, self._keys[0])

    def check(self, headers: Headers, body: bytes) -> None:
        """Raise UnauthorizedError unless the body is signed with one of the keys."""
        scheme, given = _authorization(headers)
        if scheme != b"wcs":
            raise UnauthorizedError("the hook carries no WCS signature", self.CHALLENGE)
        good = False
        for key in self._keys:
            good |= hmac.compare_digest(body_signature(body, key), given.lower())
        if not good:
            raise UnauthorizedError("the signature is not that of the body with any of the keys", self.CHALLENGE)


def body_signature(body: bytes, key: bytes) -> bytes:
    """The hexadecimal HMAC-MD5 (RFC 2104) of a hook's body, as the media server computes it."""
    return hmac.digest(key, body, "md5").hex().encode("ascii")


def signature_header(body: bytes, key: bytes) -> tuple[bytes, bytes]:
    """The header field that carries a body's signature."""
    return b"authorization", b"WCS " + body_signature(body, key)


def _authorization(headers: Headers) -> tuple[bytes, bytes]:
    """Scheme in lower case and credentials of the only Authorization field; empty if there is none, or several."""
    values = [value for name, value in headers if name == b"authorization"]
    if len(values) != 1:
        return b"", b""
    scheme, _, given = values[0].partition(b" ")
    return scheme.lower(), given.strip()
