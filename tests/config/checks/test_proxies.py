"""Warnings about what proxies in front may say of clients."""

from __future__ import annotations

import pytest

from gateway.config import loads

ANY_CLIENT = (
    "names every address: any client can then write an X-Forwarded-For that passes allow_from; list the proxies only"
)
ANY_BALANCER = (
    "names every address: any client can then write a PROXY header that passes allow_from, and one without is closed; "
    "list the balancers only"
)
ONLY = "lists only addresses of {}: it judges the clients behind them, so that their hooks are rejected; list the media servers"  # noqa: E501
NO_EFFECT = "has no effect: it is for TCP, and server.listen has unix sockets only"


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("trusted_proxies: [192.0.2.5], proxy_protocol: [192.0.2.5], allow_from: [203.0.113.0/24]", []),
        ("trusted_proxies: [0.0.0.0/0]", [f"1:28: server.trusted_proxies[0]: {ANY_CLIENT}"]),
        ("trusted_proxies: [192.0.2.5, '::/0']", [f"1:39: server.trusted_proxies[1]: {ANY_CLIENT}"]),
        ("proxy_protocol: [0.0.0.0/0]", [f"1:27: server.proxy_protocol[0]: {ANY_BALANCER}"]),
        ("allow_from: [192.0.2.5], trusted_proxies: [192.0.2.5]",
         ["1:10: server.allow_from: " + ONLY.format("trusted_proxies")]),
        ("allow_from: [192.0.2.5, 192.0.2.6], proxy_protocol: [192.0.2.0/24]",
         ["1:10: server.allow_from: " + ONLY.format("proxy_protocol")]),
        ("allow_from: [192.0.2.5, 203.0.113.1], trusted_proxies: [192.0.2.0/24]", []),
        ("allow_from: ['::1', 192.0.2.5], trusted_proxies: [192.0.2.0/24]", []),
        ("allow_from: [192.0.2.5], trusted_proxies: []", []),
        ("listen: 'unix:/run/g.sock', trusted_proxies: [192.0.2.5]",
         [f"1:38: server.trusted_proxies: {NO_EFFECT}"]),
        ("listen: ['unix:/run/g.sock', ':80'], proxy_protocol: [192.0.2.5]", []),
    ],
)  # fmt: skip
def test_lists_that_look_mistaken_are_warned_about_at_their_place(server: str, expected: list[str]) -> None:
    loaded = loads(f"server: {{{server}}}\napps: {{a: {{static: allow}}}}\n")
    assert [str(warning) for warning in loaded.warnings] == [f"gateway.yaml:{message}" for message in expected]
