"""``gateway status``: what people on the gateway's host see."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.watched import CONFIG, TOKEN, ask
from tests.support.gateways import RunningGateway, running_gateway

pytestmark = pytest.mark.usefixtures("nowhere")


def test_status_says_what_runs_which_apps_are_in_trouble_and_which_targets_are_out(running: RunningGateway) -> None:
    run = ask(running, "status")
    assert (run.status, run.err) == (0, "")
    assert run.out.startswith("wcs-gateway ")
    assert " · ready · up " in run.out
    for line in (
        rf"hooks on +{running.hooks}",
        rf"admin on +{running.admin}",
        "tenant-7 +[0-9]",
        "dead +127.0.0.1:9 +",
    ):
        assert re.search(line, run.out, re.MULTILINE)
    assert "3 apps, 1 upstream, loaded " in run.out
    assert re.search("^dead 127.0.0.1:9: connection refused", run.out, re.MULTILINE)


def test_status_as_json_is_what_the_admin_port_says(running: RunningGateway) -> None:
    told = json.loads(ask(running, "status", "--json").out)
    assert sorted(told) == ["activity", "insights", "spool", "status", "upstreams"]
    assert told["status"]["workers"] == [running.pid]
    assert told["activity"]["window_seconds"] > 0


def test_status_says_that_the_file_on_disk_is_not_in_use(tmp_path: Path) -> None:
    with running_gateway(CONFIG, tmp_path) as gateway:
        gateway.write_config("nonsense: 1\n")
        gateway.post("/-/reload", headers={"Authorization": f"Bearer {TOKEN}"})
        run = ask(gateway, "status")
    assert run.status == 0
    assert re.search("NOT in use since .*nonsense", run.out)
