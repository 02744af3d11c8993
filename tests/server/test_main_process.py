"""What the main process binds, samples and announces."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from gateway.config import Loaded, loads
from gateway.server.main_process import announce_ready, bind_all, sample_certificates
from gateway.server.sockets import StartError
from gateway.telemetry.metrics import Metrics
from tests.support.faulty import Certificates


def configuration(apps: int, upstreams: int, server: str = "") -> Loaded:
    text = "".join(f"  u{number}: {{url: 'http://127.0.0.1:9'}}\n" for number in range(upstreams))
    text = f"upstreams:\n{text}" if upstreams else ""
    return loads(f"{server}{text}apps:\n" + "".join(f"  a{number}: {{static: allow}}\n" for number in range(apps)))


@pytest.mark.parametrize(("apps", "upstreams", "words"), [(1, 1, "1 app, 1 upstream,"), (2, 0, "2 apps, 0 upstreams,")])
def test_the_ready_line_says_where_what_is_served(
    apps: int, upstreams: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    announce_ready(configuration(apps, upstreams), ["127.0.0.1:80", "unix:/run/s"], "127.0.0.1:9180")
    line = caplog.messages[0]
    assert line.startswith("ready: hooks on http://127.0.0.1:80, unix:/run/s, admin on http://127.0.0.1:9180, ")
    assert words in line


def test_where_the_admin_port_is_taken_nothing_stays_bound(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = configuration(1, 0, f"server: {{listen: 'unix:{path}', admin: '127.0.0.1:{port}'}}\n").config
        with pytest.raises(StartError, match=r"server\.admin"):
            bind_all(config)
    assert not path.exists()


def test_a_certificate_that_cannot_be_read_has_no_days_left(ours: Certificates) -> None:
    certificate, key = map(str, ours.valid)
    config = loads(
        f"server: {{tls: {{certificate: '{certificate}', key: '{key}'}}}}\napps: {{a: {{static: allow}}}}\n"
    ).config
    metrics = Metrics("test")
    sample_certificates(metrics, config, {})
    assert days(metrics) > 0
    assert config.server.tls is not None
    gone = config.server.tls.model_copy(update={"certificate": "/nowhere.pem"})
    server = config.server.model_copy(update={"tls": gone})
    sample_certificates(metrics, config.model_copy(update={"server": server}), {})
    assert days(metrics) == 0


def days(metrics: Metrics) -> float:
    """Of the one certificate that there is."""
    (line,) = [
        line
        for line in metrics.render().decode().splitlines()
        if line.startswith("gateway_certificate") and not line.startswith("#")
    ]
    return float(line.split()[-1])
