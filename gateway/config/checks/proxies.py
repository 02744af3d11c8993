"""Checks of what proxies in front may say about clients: ``trusted_proxies``, ``proxy_protocol`` and ``allow_from``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

from gateway.config.checks.plain import as_list, texts
from gateway.config.sections.addresses import parse_network
from gateway.config.source.problems import Path

_KEYS: Final = ("trusted_proxies", "proxy_protocol")
_EVERYONE: Final = {
    "trusted_proxies": "names every address: any client can then write an X-Forwarded-For that passes allow_from; list "
    "the proxies only",
    "proxy_protocol": "names every address: any client can then write a PROXY header that passes allow_from, and one "
    "without is closed; list the balancers only",
}
_ONLY_PROXIES: Final = (
    "lists only addresses of {key}: it judges the clients behind them, so that their hooks are rejected; list the "
    "media servers"
)
_UNIX_ONLY: Final = "has no effect: it is for TCP, and server.listen has unix sockets only"

Network = IPv4Network | IPv6Network


class ProxyChecks:
    """Checks the section ``server``; what it finds goes to *warn*."""

    def __init__(self, warn: Callable[[Path, str], None], server: dict[str, Any]) -> None:
        self._warn = warn
        self._server = server

    def check(self) -> None:
        """Warn of lists that look mistaken."""
        listen = [text for _, text in texts((), self._server.get("listen"))]
        is_unix_only = bool(listen) and all(text.startswith("unix:") for text in listen)
        allowed = [network for _, network in self._networks("allow_from")]
        for key in _KEYS:
            named = list(self._networks(key))
            for place, network in named:
                if network.prefixlen == 0:
                    self._warn(place, _EVERYONE[key])
            if named and is_unix_only:
                self._warn(("server", key), _UNIX_ONLY)
            # An entry for health checks beside the media servers is in order; nothing but such entries is not.
            if allowed and all(any(_covers(network, one) for _, network in named) for one in allowed):
                self._warn(("server", "allow_from"), _ONLY_PROXIES.format(key=key))

    def _networks(self, key: str) -> Iterator[tuple[Path, Network]]:
        for index, text in enumerate(as_list(self._server.get(key))):
            try:
                yield ("server", key, index), parse_network(text if isinstance(text, str) else "")
            except ValueError:
                continue  # the model reports it


def _covers(network: Network, other: Network) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(other, IPv4Network) and other.subnet_of(network)
    return isinstance(other, IPv6Network) and other.subnet_of(network)
