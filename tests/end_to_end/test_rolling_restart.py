"""Two gateways behind HAProxy are restarted one after the other under load, and the media server does not notice."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.support.faulty import CASES, OK, Case, FaultyBackend, Pause, Step, Turn, reply
from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.programs import CALL_ID, Balancer, HookResult, free_port, haproxy, haproxy_complaints, java_hooks

pytestmark = pytest.mark.real

THREADS: Final = 8
BATCH: Final = 240
MOST_BATCHES: Final = 40
TEMPLATE: Final = json.dumps({"appKey": "defaultApp", "callId": CALL_ID, "sdp": "v=0\r\n" * 600})


def slowly(turn: Turn) -> Iterable[Step]:
    yield Pause(0.03)  # so that there are hooks under way at every moment
    yield reply(turn.request.body)


@pytest.fixture
def backend() -> Iterator[FaultyBackend]:
    with pytest.MonkeyPatch.context() as patch, FaultyBackend() as running:
        patch.setitem(CASES, "slowly", Case("slowly", "Accepts after a moment.", OK, 1, slowly))
        yield running


class Place(NamedTuple):
    """Where a gateway is started, and started again."""

    directory: Path
    hooks: int
    admin: int
    backend: str
    workers: int

    @contextlib.contextmanager
    def gateway(self) -> Iterator[RunningGateway]:
        self.directory.mkdir(exist_ok=True)
        (self.directory / "gateway.log").unlink(missing_ok=True)
        listen, admin = (f"127.0.0.1:{port}" for port in (self.hooks, self.admin))
        config = {
            "server": {"listen": listen, "admin": admin, "workers": self.workers},
            "defaults": {"timeout": "10s"},
            "upstreams": {"u": {"url": self.backend, "connect_timeout": "5s"}},
            "apps": {"defaultApp": {"upstream": "u"}},
        }
        with running_gateway(json.dumps(config), self.directory) as gateway:
            yield gateway


class JavaLoad:
    """Batches of hooks, one after the other, until it is over."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/OnCallEvent"
        self._over = threading.Event()
        self.results: list[HookResult] = []
        self.batches = 0

    def run(self) -> None:
        while not self._over.is_set() and self.batches < MOST_BATCHES:
            self.results += java_hooks(self._url, THREADS, BATCH, TEMPLATE)
            self.batches += 1

    def end(self) -> None:
        self._over.set()


def is_up(balancer: Balancer, server: str) -> bool:
    return balancer.figures("gateways", server)["status"].startswith("UP")


def requests_at(balancer: Balancer) -> int:
    return balancer.log().count(' "POST /rest/my_api/OnCallEvent ')


def carries(gateway: RunningGateway, hooks: int) -> bool:
    """Wait until a gateway that has just been started has had so many hooks."""
    return bool(wait_until(lambda: gateway.metric("gateway_hooks_total") >= hooks, 20))


def test_the_configuration_for_operators_is_one_that_haproxy_takes_without_a_complaint() -> None:
    assert haproxy_complaints() == ""


@pytest.mark.slow
def test_a_rolling_restart_under_load_loses_no_hook_and_doubles_none(backend: FaultyBackend, tmp_path: Path) -> None:
    ports = iter([free_port() for _ in range(4)])
    url = backend.url_of("slowly")
    places = [Place(tmp_path / name, next(ports), next(ports), url, workers) for workers, name in ((1, "a"), (2, "b"))]
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(contextlib.ExitStack()) for _ in places]
        gateways = {
            server: held.enter_context(place.gateway())
            for held, place, server in zip(running, places, ("gateway-a", "gateway-b"), strict=True)
        }
        balancer = stack.enter_context(
            haproxy(
                gateway_a=str(places[0].hooks), admin_a=str(places[0].admin),
                gateway_b=str(places[1].hooks), admin_b=str(places[1].admin),
            )
        )  # fmt: skip
        load = JavaLoad(balancer.url)
        pool = stack.enter_context(ThreadPoolExecutor(1))
        stack.callback(load.end)
        sending = pool.submit(load.run)
        for held, place, server in zip(running, places, ("gateway-a", "gateway-b"), strict=True):
            assert carries(gateways[server], 50)
            gateways[server].client.close()
            assert gateways[server].stop() == 0
            held.close()
            gateways[server] = held.enter_context(place.gateway())
            assert wait_until(partial(is_up, balancer, server), 20), balancer.log()
            assert carries(gateways[server], 50)
        assert not sending.done(), "the load ended before the restarts"
        load.end()
        sending.result(60)
        # HAProxy writes a line when a request is over, which may be a moment after its answer.
        wait_until(lambda: requests_at(balancer) >= len(load.results))
        requests = requests_at(balancer)
    lost = [result for result in load.results if result.status != 200 or result.received_sha1 != result.sent_sha1]
    assert lost == []
    seen_ids = Counter(json.loads(request.body)["callId"] for request in backend.requests)
    assert seen_ids.keys() == {result.call_id for result in load.results}
    # By Java itself, which does so without a word. A line that HAProxy's log lacks leaves no room for any.
    repeated = max(0, requests - len(load.results))
    assert seen_ids.total() - len(seen_ids) <= repeated
    assert repeated == 0  # for nobody has closed its connections
