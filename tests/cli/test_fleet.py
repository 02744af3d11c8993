"""``gateway fleet``, and ``--fleet`` of the commands that watch: what an operator sees of two gateways."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator

import pytest

from tests.cli.watched import ask
from tests.support.fleets import fleet_config, know_each_other, running_fleet
from tests.support.gateways import RunningGateway, wait_until
from tests.support.redis import redis_server

pytestmark = pytest.mark.usefixtures("nowhere")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningGateway]]:
    with redis_server() as redis:
        config = fleet_config(redis.url, "[{url: 'http://127.0.0.1:9/rest'}]", "  quiet: {static: allow}")
        with running_fleet([config, config], tmp_path_factory.mktemp("fleet")) as gateways:
            yield gateways


def test_the_fleet_is_a_table_with_this_gateway_marked(fleet: list[RunningGateway]) -> None:
    run = ask(fleet[0], "fleet")
    assert (run.status, run.err) == (0, "")
    assert run.out.startswith("fleet of 2 gateways\n")
    assert re.search(
        r"^a \(this one\) +0\.1\.0 +[0-9a-f]{8,} +[0-9-]{10} [0-9:]{8} +ready +none +up", run.out, re.MULTILINE
    )
    assert re.search(r"^b +0\.1\.0 ", run.out, re.MULTILINE)


def test_the_fleet_as_json_is_what_the_admin_port_says(fleet: list[RunningGateway]) -> None:
    found = json.loads(ask(fleet[0], "fleet", "--json").out)
    assert found["configured"] is True
    assert [replica["name"] for replica in found["replicas"]] == ["a", "b"]


def test_a_gateway_without_a_state_has_no_fleet(running: RunningGateway) -> None:
    for command in (["fleet"], ["status", "--fleet"], ["decisions", "--fleet"], ["top", "--fleet"]):
        run = ask(running, *command)
        assert (run.status, "no state is configured" in run.err) == (1, True), run


def test_decisions_of_all_gateways_say_where_they_were_made(fleet: list[RunningGateway]) -> None:
    ids = [
        gateway.hook(body=b'{"appKey": "quiet", "callId": "everywhere"}').headers["x-request-id"] for gateway in fleet
    ]
    run = ask(fleet[0], "decisions", "--fleet", "--call-id", "everywhere")
    assert (run.status, run.err) == (0, "")
    assert [re.findall("at=([ab])", line) for line in run.out.splitlines()] == [["a"], ["b"]]
    one = ask(fleet[0], "decisions", "--fleet", ids[1])
    assert re.search("^replica +b$", one.out, re.MULTILINE), one
    assert ask(fleet[0], "decisions", ids[1]).status == 1


def test_decisions_of_all_gateways_are_not_in_one_log(fleet: list[RunningGateway]) -> None:
    run = ask(fleet[0], "decisions", "--fleet", "--from-log", "x")
    assert (run.status, "--fleet cannot be combined with --from-log" in run.err) == (2, True)


def test_status_and_top_show_all_gateways(fleet: list[RunningGateway]) -> None:
    fleet[1].hook()
    run = ask(fleet[0], "status", "--fleet")
    assert (run.status, run.err) == (0, "")
    assert re.search(r"^gateway +hooks/s +rejected ", run.out, re.MULTILINE)
    assert re.search(r"^defaultApp ", run.out, re.MULTILINE)
    assert re.search(r"^php +127\.0\.0\.1:9 ", run.out, re.MULTILINE)
    told = json.loads(ask(fleet[0], "status", "--fleet", "--json").out)
    assert sorted(told) == ["activity", "fleet", "status", "upstreams"]
    screen = ask(fleet[0], "top", "--fleet")
    assert (screen.status, screen.out.startswith("fleet of 2 gateways")) == (0, True), screen


def test_a_gateway_that_hangs_is_named_by_every_command(fleet: list[RunningGateway]) -> None:
    a, b = fleet
    fleet[0].post("/api/upstreams/php/127.0.0.1:9/eject")
    assert wait_until(lambda: b.metric("gateway_target_up", upstream="php") == 0)
    os.kill(b.pid, signal.SIGSTOP)
    try:
        for command in (["fleet"], ["status", "--fleet"], ["top", "--fleet"]):
            run = ask(a, *command)
            assert run.status == 0, run
            assert re.search("gateway b: (no answer within|lost: )", run.out), run
            assert "1 without an answer" in run.out
        run = ask(a, "decisions", "--fleet")
        assert re.search(r"gateway b gave no answer \((no answer within|lost)", run.err), run
        assert "ejected by an operator since" in ask(a, "fleet").out
    finally:
        os.kill(b.pid, signal.SIGCONT)
    know_each_other(fleet)
