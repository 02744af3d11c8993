"""A running gateway and a configuration that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.support.gateways import running_gateway, wait_until

HOST: Final = "must be a URL whose host is an IP address such as 192.168.1.101, or a host name"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_mistyped_address_takes_nothing_down(workers: int, tmp_path: Path) -> None:
    good = (
        f"server: {{listen: '127.0.0.1:0', admin: '127.0.0.1:0', workers: {workers}}}\n"
        "upstreams: {u: {url: 'http://127.0.0.1:1/x'}}\napps: {a: {static: allow}}\n"
    )
    with running_gateway(good, tmp_path) as gateway:
        pids = gateway.get("/api/status").json()["workers"]
        for host in ("192.168.1.256", "192.168.01.101", "xn--zzzz99"):
            gateway.write_config(good.replace("127.0.0.1:1", host))
            answer = gateway.post("/-/reload")
            assert answer.status_code == 422
            assert answer.json()["problems"] == [f"{gateway.config}:2:17: upstreams.u.url: {HOST}"]
            assert gateway.hook(appKey="a").status_code == 200
        # The file is still looked at, by itself too, and nobody has died.
        known = len(gateway.reloads("success"))
        gateway.write_config(good.replace("apps: {", "apps: {b: {static: allow}, "))
        assert wait_until(lambda: len(gateway.reloads("success")) > known)
        assert gateway.hook(appKey="b").status_code == 200
        assert gateway.get("/api/status").json()["workers"] == pids
