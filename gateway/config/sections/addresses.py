"""Addresses: where to listen (TCP, a unix socket, a socket of systemd), and the networks that clients come from."""

from __future__ import annotations

import ipaddress
import posixpath
import re
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Final, NamedTuple

import httpx
from pydantic import BeforeValidator, WithJsonSchema

from gateway.config.sections.types import ListLength, invalid, invalid_value, parsed_text, read_value, text_schema

_ADDRESS: Final = r"(?:\[[0-9A-Fa-f:.%A-Za-z]+\]|[A-Za-z0-9._-]*):[0-9]{1,5}"
_ADDRESS_FORM: Final = "must be an address such as 127.0.0.1:8080, [::1]:8080 or :8080"
_ADMIN_FORM: Final = "must be an address such as 127.0.0.1:9180, [::1]:9180, :9180 or systemd:admin"
_LISTEN_FORM: Final = (
    "must be an address such as 127.0.0.1:8080, [::1]:8080, :8080, unix:/run/gateway.sock or systemd:hooks"
)
_MAX_ADDRESSES: Final = 64
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_is_host_name = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?").fullmatch
_ends_in_number = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?").fullmatch
_match_authority = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?").fullmatch
_is_zone = re.compile(r"[A-Za-z0-9._-]{1,15}").fullmatch
_PUNYCODE: Final = "xn--"

_UNIX: Final = "unix:"
_UNIX_FORM: Final = (
    "must be unix: and the absolute path of a socket in at most 100 bytes, such as unix:/run/gateway.sock"
)
_MAX_UNIX_PATH: Final = 100
"""Bytes; Linux takes 107 (unix(7)), other systems a few less."""
_SYSTEMD: Final = "systemd:"
_SYSTEMD_NAME: Final = r"[ -9;-~]{1,255}"
_SYSTEMD_FORM: Final = (
    "must be systemd: and the FileDescriptorName= of a socket unit, at most 255 printable ASCII characters without a "
    "colon, such as systemd:hooks"
)
_is_descriptor_name = re.compile(_SYSTEMD_NAME).fullmatch
_has_no_file_name = re.compile(r"(?s:.*/\.{0,2})").fullmatch
find_unfit_for_path = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]").search
"""Finds what no path of a configuration may hold: control characters, and halves of surrogate pairs."""


class Address(NamedTuple):
    """A TCP address: *host* is an IP address or a name, empty for all interfaces; port 0 takes any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it; a name other than ``localhost`` is taken to be reachable."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower().rstrip(".") == "localhost"


class UnixAddress(NamedTuple):
    """A unix socket to listen on, by its absolute path."""

    path: str

    def __str__(self) -> str:
        return f"{_UNIX}{self.path}"


class SystemdAddress(NamedTuple):
    """Sockets that systemd hands over: all those of the socket units with this ``FileDescriptorName=``."""

    name: str

    def __str__(self) -> str:
        return f"{_SYSTEMD}{self.name}"


ListenAddress = Address | UnixAddress | SystemdAddress
"""Where hooks may arrive."""
AdminAddress = Address | SystemdAddress
"""Where operators and Prometheus may connect."""


def parse_address(text: str) -> Address:
    """``127.0.0.1:8080``, ``[::1]:8080``, ``localhost:8080``, ``:8080``. Raises ValueError."""
    host, colon, digits = text.rpartition(":")
    if not colon or not (digits.isascii() and digits.isdigit()) or len(digits) > 5 or int(digits) > 65535:
        raise ValueError(_ADDRESS_FORM)
    try:
        return Address(_host(host), int(digits))
    except ValueError as exc:
        raise ValueError(_ADDRESS_FORM) from exc


def parse_admin_address(text: str) -> AdminAddress:
    """What ``parse_address`` takes, and ``systemd:admin``. Raises ValueError."""
    if text.startswith(_SYSTEMD):
        return _systemd_address(text)
    if text.startswith(_UNIX):
        raise ValueError(f"{_ADMIN_FORM} (unix sockets are for server.listen alone)")
    try:
        return parse_address(text)
    except ValueError as exc:
        raise ValueError(_ADMIN_FORM) from exc


def parse_listen_address(text: str) -> ListenAddress:
    """What ``parse_address`` takes, ``unix:/run/gateway.sock`` and ``systemd:hooks``. Raises ValueError."""
    if text.startswith(_SYSTEMD):
        return _systemd_address(text)
    if text.startswith(_UNIX):
        path = text.removeprefix(_UNIX)
        if not path.startswith("/") or find_unfit_for_path(path) or _has_no_file_name(path):
            raise ValueError(_UNIX_FORM)
        if len(path.encode("utf-8")) > _MAX_UNIX_PATH:
            raise ValueError(_UNIX_FORM)
        return UnixAddress(path)
    try:
        return parse_address(text)
    except ValueError as exc:
        raise ValueError(_LISTEN_FORM) from exc


def _systemd_address(text: str) -> SystemdAddress:
    name = text.removeprefix(_SYSTEMD)
    if not _is_descriptor_name(name):
        raise ValueError(_SYSTEMD_FORM)
    return SystemdAddress(name)


def overlap(one: ListenAddress, other: ListenAddress) -> bool:
    """Whether both cannot be listened on at once; port 0 takes a free one each time."""
    if isinstance(one, SystemdAddress) or isinstance(other, SystemdAddress):
        return isinstance(one, SystemdAddress) and isinstance(other, SystemdAddress) and one.name == other.name
    if isinstance(one, UnixAddress) or isinstance(other, UnixAddress):
        return (
            isinstance(one, UnixAddress)
            and isinstance(other, UnixAddress)
            and _one_spelling(one.path) == _one_spelling(other.path)
        )
    if one.port != other.port or one.port == 0:
        return False
    if one.host == other.host or "" in (one.host, other.host):
        return True
    if (":" in one.host) != (":" in other.host):
        return False
    return not {"0.0.0.0", "::"}.isdisjoint((one.host, other.host))  # noqa: S104 - compared, not bound


def _one_spelling(path: str) -> str:
    return posixpath.normpath(f"/{path.lstrip('/')}")  # normpath keeps two slashes at the front, as POSIX has it


def is_host(text: str) -> bool:
    """Whether it is an IP address, without brackets or zone, or a name as DNS has them, without its final dot."""
    if "%" in text:
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return text[-1:] != "." and _is_name(text)
    return True


def parse_authority(text: str) -> tuple[str, int | None]:
    """Host and port as a URL and a Host field have them: a name, with its final dot or without, or an IP address.

    The host is returned without brackets. Raises ValueError, whose message does not hold the text.
    """
    match = _match_authority(text)
    if match is None:
        raise ValueError("must be a host, with :PORT unless that is the default port")
    host, port = match[1], None if match[2] is None else int(match[2])
    if host.startswith("["):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    elif not is_host(host) and not _is_name(host):
        raise ValueError("must have a host that is a DNS name or an IP address")
    if port is not None and not 1 <= port <= 65535:
        raise ValueError("must have a port from 1 to 65535")
    return host, port


def _is_name(text: str) -> bool:
    """Whether DNS can have such a name; with its final dot or without."""
    if len(text) > 253 or not _is_host_name(text) or _ends_in_number(text):
        return False
    return all(_is_label(label) for label in text.removesuffix(".").lower().split("."))


def _is_label(label: str) -> bool:
    """Whether what claims to be Punycode is (RFC 5891, section 4.4); of other labels nothing is claimed."""
    if not label.startswith(_PUNYCODE):
        return True
    try:
        return bool(httpx.URL(f"http://{label}").host)  # which decodes it
    except (httpx.InvalidURL, ValueError):
        return False


def _host(text: str) -> str:
    if text.startswith("[") and text.endswith("]"):
        address = ipaddress.IPv6Address(text[1:-1])
        if address.scope_id is not None and not _is_zone(address.scope_id):
            raise ValueError("not the name of an interface")
        return str(address)
    if not text:
        return text
    if _ends_in_number(text):  # RFC 3986, section 3.2.2: what looks like an IPv4 address must be one
        return str(ipaddress.IPv4Address(text))
    if not _is_name(text):
        raise ValueError("not a host")
    return text


def _as_list(value: object) -> object:
    """One address as a list of one."""
    if not isinstance(value, list):
        return [value]
    if not value:
        raise invalid("must name at least one address")
    if len(value) > _MAX_ADDRESSES:
        raise invalid(f"must name at most {_MAX_ADDRESSES} addresses")
    return value


_LISTEN_SCHEMA: Final = text_schema(
    rf"{_ADDRESS}|{_UNIX}/[^\x00-\x1f\x7f]{{1,{_MAX_UNIX_PATH - 1}}}|{_SYSTEMD}{_SYSTEMD_NAME}",
    *("0.0.0.0:8080", "127.0.0.1:8080", "[::1]:8080", ":8080", "unix:/run/gateway.sock", "systemd:hooks"),
)
_ADMIN_SCHEMA: Final = text_schema(
    rf"{_ADDRESS}|{_SYSTEMD}{_SYSTEMD_NAME}", "127.0.0.1:9180", "[::1]:9180", ":9180", "systemd:admin"
)
AdminListener = Annotated[AdminAddress, parsed_text(_ADMIN_FORM, parse_admin_address, _ADMIN_SCHEMA)]
HookListeners = Annotated[
    tuple[Annotated[ListenAddress, parsed_text(_LISTEN_FORM, parse_listen_address, _LISTEN_SCHEMA)], ...],
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [_LISTEN_SCHEMA, {"type": "array", "items": _LISTEN_SCHEMA, "minItems": 1}]}),
]
"""One address or a list of them."""


# --- networks ---

_NETWORK_FORM: Final = "must be a network or an address such as 192.168.1.0/24, 192.168.1.10 or 2001:db8::/32"
_MAX_NETWORKS: Final = 1024
_NETWORK: Final = r"[0-9.]{7,15}(?:/[0-9]{1,2})?|[0-9A-Fa-f:.]{2,45}(?:/[0-9]{1,3})?"
_is_network_text = re.compile(_NETWORK).fullmatch
_MAPPED: Final = IPv6Network("::ffff:0:0/96")


class HostBitsError(ValueError):
    """A network has bits beyond its prefix; the hint says what was probably meant."""

    def __init__(self, hint: str) -> None:
        super().__init__(f"must have no bits beyond its prefix{hint}")
        self.hint = hint


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """``10.0.0.0/8``, ``192.168.1.10``, ``2001:db8::/32``; one of IPv4-mapped addresses becomes that of IPv4.

    Raises ValueError; where bits beyond the prefix are set, HostBitsError.
    """
    if not _is_network_text(text):
        raise ValueError(_NETWORK_FORM)
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as exc:
        raise ValueError(_NETWORK_FORM) from exc
    address = ipaddress.ip_address(text.partition("/")[0])
    if address != network.network_address:
        raise HostBitsError(f": write {network} for the network or {address} for that address alone")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        return IPv4Network((int(mapped or 0), network.prefixlen - _MAPPED.prefixlen))
    return network


def _read_network(value: object) -> IPv4Network | IPv6Network:
    try:
        return parse_network(value if isinstance(value, str) else "")
    except HostBitsError as exc:
        raise invalid_value("must have no bits beyond its prefix", exc.hint) from exc
    except ValueError as exc:
        raise invalid_value(str(exc)) from exc


Network = Annotated[
    IPv4Network | IPv6Network,
    read_value(
        _NETWORK_FORM, _read_network, text_schema(_NETWORK, "192.168.1.0/24", "192.168.1.10", "2001:db8::/32"), str
    ),
]
Networks = Annotated[tuple[Network, ...], ListLength(0, _MAX_NETWORKS, "networks")]
