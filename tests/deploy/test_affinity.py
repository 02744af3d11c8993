"""HAProxy and nginx, by the examples' configurations, before three gateways: a session stays on one of them."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import ne
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.nginx import nginx, nginx_complaints
from tests.support.programs import free_port, haproxy

pytestmark = pytest.mark.real

NAMES: Final = ("a", "b", "c")
SESSIONS: Final = 90
NODE: Final = "ah20GKYnbYKxjJmdh1zDs6c1lWkn0Q0t@192.0.2.9"
METHODS: Final = {1: "connect", 2: "OnCallEvent", 3: "CallStatusEvent"}
MEDIA: Final = "127.0.0.9"


class Fleet:
    """Three gateways with ports that they keep."""

    def __init__(self, directory: Path) -> None:
        self.ports = {name: (str(free_port()), str(free_port())) for name in NAMES}
        self.gateways: dict[str, RunningGateway] = {}
        self._directory = directory
        self._stacks: dict[str, contextlib.ExitStack] = {}

    def start(self, name: str) -> None:
        hooks, admin = (f"127.0.0.1:{port}" for port in self.ports[name])
        server = {"listen": hooks, "admin": admin, "allow_from": [MEDIA], "trusted_proxies": ["127.0.0.1"]}
        config = {"server": server, "apps": {"defaultApp": {"static": "allow"}}}
        directory = self._directory / name
        directory.mkdir(exist_ok=True)
        (directory / "gateway.log").unlink(missing_ok=True)
        stack = self._stacks[name] = contextlib.ExitStack()
        self.gateways[name] = stack.enter_context(running_gateway(json.dumps(config), directory))

    def kill(self, name: str) -> None:
        gateway = self.gateways.pop(name)
        gateway.process.kill()
        gateway.process.wait()
        self._stacks.pop(name).close()

    def close(self) -> None:
        for stack in self._stacks.values():
            stack.close()

    def owners(self, request_ids: Iterable[str]) -> list[str]:
        """By their access logs, which gateway answered each of these hooks."""
        wanted = list(request_ids)

        def known() -> dict[str, str]:
            lines = [(name, line) for name, each in self.gateways.items() for line in each.access_lines()]
            found = {line["request_id"]: name for name, line in lines}
            return found if found.keys() >= set(wanted) else {}

        found = wait_until(known)
        assert found, "a hook is in no access log"
        return [found[request_id] for request_id in wanted]


@dataclass
class Front:
    """A balancer before the fleet, as the media server knows it."""

    fleet: Fleet
    port: int
    health: str
    log: Callable[[], str]
    is_up: Callable[[str], bool]
    """Whether the balancer takes this gateway for one that gets hooks."""
    client: httpx.Client = field(
        default_factory=lambda: httpx.Client(
            trust_env=False, timeout=20, transport=httpx.HTTPTransport(local_address=MEDIA)
        )
    )

    def send(self, body: Mapping[str, object] | bytes, method: str = "OnCallEvent") -> str:
        """Send a hook, which has to be allowed; returns its request id."""
        content = body if isinstance(body, bytes) else json.dumps({"appKey": "defaultApp", **body}).encode()
        answer = self.client.post(f"http://127.0.0.1:{self.port}/rest/my_api/{method}", content=content)
        assert answer.status_code == 200, (answer.text, self.log())
        assert answer.content == content
        return str(answer.headers["x-request-id"])

    def owners(self, bodies: Iterable[Mapping[str, object] | bytes], method: str = "OnCallEvent") -> list[str]:
        """Send these hooks; which gateway answered each."""
        return self.fleet.owners([self.send(body, method) for body in bodies])

    def await_down(self, name: str) -> None:
        """Wait until the balancer sends nothing to this gateway; until then, every hook is answered all the same."""

        def is_down() -> bool:
            for number in range(10):
                self.send(hook(0, number))
            return not self.is_up(name)

        assert wait_until(is_down), self.log()

    def sessions(self) -> list[str]:
        """The gateway of each session of the test; fails if one of them has two."""
        found = [self.owners(map(partial(hook, number), range(SESSIONS)), method) for number, method in METHODS.items()]
        assert found[0] == found[1] == found[2]
        return found[0]


def hook(number: int, session: int) -> dict[str, object]:
    """Hooks of one session differ in all but the session."""
    return {
        "nodeId": NODE,
        "sessionId": f"/8.8.8.8:{50000 + session}/192.0.2.9:8443",
        "callId": f"{number}",
        "n": number,
    }


@contextlib.contextmanager
def haproxy_front(fleet: Fleet) -> Iterator[Front]:
    ports = {
        f"{kind}_{name}": port for name, pair in fleet.ports.items() for kind, port in zip(KINDS, pair, strict=True)
    }

    def is_up(name: str) -> bool:
        return balancer.figures("gateways", f"gateway-{name}")["status"].startswith("UP")

    with haproxy(**ports) as balancer:
        yield Front(fleet, balancer.port, balancer.health, balancer.log, is_up)


@contextlib.contextmanager
def nginx_front(fleet: Fleet) -> Iterator[Front]:
    def is_up(name: str) -> bool:
        said = f"gateway 127.0.0.1:{fleet.ports[name][0]} is "
        return balancer.log().rpartition(said)[2].startswith("up") or said not in balancer.log()

    with nginx(list(fleet.ports.values())) as balancer:
        yield Front(fleet, balancer.port, balancer.health, balancer.log, is_up)


KINDS: Final = ("gateway", "admin")
FRONTS: Final = {"haproxy": haproxy_front, "nginx": nginx_front}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        for name in NAMES:
            fleet.start(name)
        yield fleet
    finally:
        fleet.close()


@pytest.fixture(params=FRONTS)
def front(request: pytest.FixtureRequest, fleet: Fleet) -> Iterator[Front]:
    with FRONTS[request.param](fleet) as front, front.client:
        assert wait_until(lambda: all(map(front.is_up, NAMES))), front.log()
        yield front


@pytest.mark.slow
def test_a_session_stays_on_one_gateway_and_only_those_of_a_lost_one_move(front: Front, fleet: Fleet) -> None:
    at_first = front.sessions()
    shares = Counter(at_first)
    assert all(SESSIONS / 6 < shares[name] < SESSIONS / 2 for name in NAMES), shares

    fleet.kill("b")
    front.await_down("b")
    without = front.sessions()
    moved = [now for before, now in zip(at_first, without, strict=True) if before != now]
    assert len(moved) == shares["b"]
    assert set(moved) == {"a", "c"}  # spread over both

    fleet.start("b")
    assert wait_until(lambda: front.is_up("b"))
    assert front.sessions() == at_first


@pytest.mark.slow
def test_a_drained_gateway_gets_no_hooks_until_it_is_undrained(front: Front, fleet: Fleet) -> None:
    at_first = front.sessions()
    fleet.gateways["c"].post("/-/drain")
    front.await_down("c")
    without = front.sessions()
    assert "c" not in without
    assert sum(map(ne, at_first, without)) == at_first.count("c")
    fleet.gateways["c"].post("/-/undrain")
    assert wait_until(lambda: front.is_up("c"))
    assert front.sessions() == at_first


def test_hooks_without_a_session_of_their_own_are_spread_and_their_repeats_are_not(front: Front) -> None:
    def spread(bodies: list[bytes], method: str = "OnCallEvent") -> None:
        owners = front.owners(bodies, method)
        assert set(owners) == set(NAMES)
        assert front.owners(bodies, method) == owners

    def bodies(text: str) -> list[bytes]:
        return [f'{{"appKey":"defaultApp",{text},"n":{number}}}'.encode() for number in range(40)]

    spread(bodies('"callId":"c"'))
    spread(bodies('"nodeId":"n","sessionId":""'))
    spread(bodies('"nodeId":"n","sessionId":null'))
    spread(bodies('"nodeId":"n","sessionId":"test-HLS"'))
    spread(bodies('"nodeId":"n","sessionId":"test"'), "playHLS")
    # The same session id on another media server is another session.
    spread([json.dumps({"appKey": "defaultApp", "nodeId": str(node), "sessionId": "s"}).encode() for node in range(40)])


def test_the_session_is_that_of_the_body_itself_wherever_it_is_written(front: Front) -> None:
    def same(template: str) -> None:
        owners = front.owners([(template % number).encode() for number in range(30)])
        assert len(set(owners)) == 1, template

    same('{"appKey":"defaultApp","nodeId":"n","sessionId":"s","callId":"%d"}')
    same('{"appKey":"defaultApp","sdp":"\\"sessionId\\":\\"x%d\\"","sessionId":"s"}')
    same('{"appKey":"defaultApp","custom":{"sessionId":"%d"},"list":[{"sessionId":2}],"sessionId" : "s"}')
    same('{"appKey":"defaultApp","sessionId":"s","sdp":"' + "v=0 " * 20000 + '%d"}')
    same('{"appKey":"defaultApp","sessionId":"s","nodeId":null,"callId":"%d"}')


def test_the_gateways_see_the_media_server_and_not_what_it_claims(front: Front, fleet: Fleet) -> None:
    claimed = {"X-Forwarded-For": "192.0.2.77"}
    url = f"http://127.0.0.1:{front.port}/OnCallEvent"
    answer = front.client.post(url, content=b'{"appKey":"defaultApp"}', headers=claimed)
    assert answer.status_code == 200
    request_id = answer.headers["x-request-id"]
    (owner,) = fleet.owners([request_id])
    assert fleet.gateways[owner].access_line(request_id)["client"] == MEDIA
    stranger = httpx.HTTPTransport(local_address="127.0.0.8")
    with httpx.Client(trust_env=False, transport=stranger) as client:
        assert client.post(url, content=b'{"appKey":"defaultApp"}').status_code == 403


def test_nginx_takes_the_configuration_without_a_complaint_and_would_report_a_mistake() -> None:
    assert nginx_complaints("") == ""
    assert "worker_procesess" in nginx_complaints("worker_procesess 1;\n")
