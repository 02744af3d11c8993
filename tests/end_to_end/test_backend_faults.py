"""Every backend fault against a real gateway: the verdict, its words, and that nothing is left behind.

All hooks are sent once, side by side, when the first test of this file asks for them; the tests then judge what was
recorded. FAULT_TABLE=<file> in the environment writes the outcomes down as a Markdown table.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import faulty
from tests.support.faulty import (
    BAD_ANSWER,
    CALLER_INPUT,
    CASES,
    DENIED,
    ERROR_STATUS,
    OK,
    TIMEOUT,
    UNREACHABLE,
    WRONG_ANSWER,
    Expected,
    FaultyBackend,
    Recorded,
)
from tests.support.gateways import LISTEN, RunningGateway, running_gateway, wait_until

BUDGET: Final = 1.5
CONNECT_TIMEOUT: Final = 0.3
SIDE_BY_SIDE: Final = 8
OWN_HEADERS: Final = {
    "cache-control",
    "content-type",
    "content-length",
    "x-request-id",
    "proxy-status",
    "date",
    "connection",
}
ALLOW_ALL: Final = "{timeout: allow, unreachable: allow, overload: allow, bad_answer: allow, error_status: allow}"
SELF_CLOSING: Final = frozenset(("ok_keep_alive_timeout",))
"""Cases whose backend closes by itself, as announced: the next hook is sent when the gateway has given that up."""

LISTENERS: Final = {
    "listener_refused": ("Nothing listens on the port.", UNREACHABLE),
    "listener_full_backlog": ("The queue of connections is full: SYNs meet silence.", UNREACHABLE),
    "listener_hangs": ("Connections are accepted; nothing is ever read.", TIMEOUT),
    "listener_resets": ("Each connection is reset as soon as it is made.", UNREACHABLE),
    "listener_closes": ("Each connection is closed as soon as it is made.", UNREACHABLE),
    "dns_no_such_host": ("The name does not resolve.", UNREACHABLE),
    "tls_to_silence": ("https to a port that never answers the handshake.", UNREACHABLE),
    "tls_to_reset": ("https to a port that resets.", UNREACHABLE),
    "tls_to_close": ("https to a port that closes.", UNREACHABLE),
}
TLS_KINDS: Final = {
    "valid": "A certificate of an authority that the gateway does not know.",
    "expired": "An expired certificate.",
    "wrong_host": "A certificate for another host.",
    "self_signed": "A self-signed certificate.",
}
NAMES: Final = [*CASES, *LISTENERS, *(f"tls_{kind}" for kind in TLS_KINDS)]

FALLBACK_CASES: Final = {
    "hang": TIMEOUT,
    "half_body_silence": TIMEOUT,
    "trickle_body": TIMEOUT,
    "close_without_a_byte": UNREACHABLE,
    "reset_before_answer": UNREACHABLE,
    "half_body_close": BAD_ANSWER,
    "endless_body": BAD_ANSWER,
    "body_html": BAD_ANSWER,
    "body_notice_quotes": BAD_ANSWER,
    "body_two_objects": BAD_ANSWER,
    "gzip_bomb": BAD_ANSWER,
    "not_http_ssh_banner": BAD_ANSWER,
    "status_204": ERROR_STATUS,
    "redirect_302": ERROR_STATUS,
    "status_500_yes": ERROR_STATUS,
}
"""What stands for each cause where fallback: allow lets the hook pass."""
STILL_DENIED: Final = (
    "denied",
    "denied_yes",
    "denied_html",
    "denied_chunked",
    "denied_surplus",
    "denied_half_close",
    "denied_half_silence",
    "denied_endless",
)


class Fault(NamedTuple):
    """One backend fault and the app that meets it."""

    name: str
    doc: str
    url: str
    allowed: tuple[Expected, ...]
    second: tuple[Expected, ...]
    connections_after: int = 0
    body: Callable[[bytes], bytes] = faulty.right_answer
    recorded: bool = False
    """Whether the faulty backend records what arrives."""


@dataclass
class Encounter:
    """One hook, its answer, and what others saw of it."""

    request_id: str
    sent: bytes
    response: httpx.Response
    lines: list[dict[str, Any]] = field(default_factory=list)
    requests: list[Recorded] = field(default_factory=list)

    @property
    def outcome(self) -> Expected:
        line = self.lines[0]
        return Expected(self.response.status_code, line["reason"], line["verdict"])

    def __repr__(self) -> str:
        return f"<{self.response.status_code} {self.response.headers} {self.response.content[:200]!r} {self.lines}>"


@dataclass
class World:
    """What was recorded, all faults together."""

    faults: dict[str, Fault]
    first: dict[str, Encounter] = field(default_factory=dict)
    second: dict[str, Encounter] = field(default_factory=dict)
    allowing: dict[str, Encounter] = field(default_factory=dict)
    connections: dict[str, int] = field(default_factory=dict)
    """Connections still open after the first hook, once the gateway had time to close them."""
    hooks: dict[str, Counter[str]] = field(default_factory=dict)
    """By app: gateway_hooks_total by reason."""
    attempts: dict[str, Counter[str]] = field(default_factory=dict)
    """By upstream: gateway_upstream_attempts_total by outcome."""
    in_flight: float = -1.0
    problems: list[str] = field(default_factory=list)
    alive: bool = False
    descriptors: tuple[int, int] = (0, 0)
    """Before the first and after the last hook."""
    left_open: int = -1
    log: str = ""

    @property
    def encounters(self) -> list[Encounter]:
        return [*self.first.values(), *self.second.values(), *self.allowing.values()]


def config_of(faults: dict[str, Fault], backend: FaultyBackend, own_address: str = "") -> str:
    """One upstream and one app per fault, the same again with a fallback that lets pass, and a few odd ones."""
    setting = f"connect_timeout: {int(CONNECT_TIMEOUT * 1000)}ms"
    budget = f"timeout: {int(BUDGET * 1000)}ms"
    urls = {fault.name: fault.url for fault in faults.values()}
    urls |= {f"allow-{name}": backend.url_of(name) for name in (*FALLBACK_CASES, *STILL_DENIED)}
    urls["allow-listener_refused"] = faults["listener_refused"].url
    urls["allow-dns_no_such_host"] = faults["dns_no_such_host"].url
    upstreams = [f"  {name}: {{url: '{url}', {setting}}}" for name, url in urls.items()]
    upstreams.append(f"  busy: {{url: '{backend.url_of('hang')}', max_connections: 1}}")
    apps = [
        f"  {name}: {{upstream: {name}, {budget}, fallback: {ALLOW_ALL if name.startswith('allow-') else 'reject'}}}"
        for name in urls
    ]
    apps += [
        "  warm-up: {static: allow}",
        "  holder: {upstream: busy, timeout: 3s}",
        "  queued: {upstream: busy, timeout: 200ms}",
        f"  allow-queued: {{upstream: busy, timeout: 200ms, fallback: {ALLOW_ALL}}}",
    ]
    if own_address:
        upstreams.append(f"  loop: {{url: 'http://{own_address}/again'}}")
        apps.append(f"  loop: {{upstream: loop, {budget}}}")
    return "\n".join((LISTEN, "upstreams:", *upstreams, "apps:", *apps, ""))


@contextlib.contextmanager
def all_faults(directory: Path, backend: FaultyBackend) -> Iterator[dict[str, Fault]]:
    """Every fault by its name, those without HTTP included; absent are those that this machine cannot play."""
    faults = {
        case.name: Fault(
            case.name,
            case.doc,
            backend.url_of(case.name),
            case.allowed,
            case.second or case.allowed,
            case.connections_after,
            case.body,
            recorded=True,
        )
        for case in CASES.values()
    }
    with contextlib.ExitStack() as stack:
        silent, reset, closing = (
            stack.enter_context(listener())
            for listener in (faulty.hanging_listener, faulty.resetting_listener, faulty.closing_listener)
        )
        urls = {
            "listener_refused": f"http://127.0.0.1:{stack.enter_context(faulty.refused_port())}",
            "listener_hangs": f"http://127.0.0.1:{silent}/a",
            "listener_resets": f"http://127.0.0.1:{reset}/a",
            "listener_closes": f"http://127.0.0.1:{closing}/a",
            "dns_no_such_host": "http://no-such-host.invalid/a",
            "tls_to_silence": f"https://127.0.0.1:{silent}/a",
            "tls_to_reset": f"https://127.0.0.1:{reset}/a",
            "tls_to_close": f"https://127.0.0.1:{closing}/a",
        }
        with contextlib.suppress(OSError):
            urls["listener_full_backlog"] = f"http://127.0.0.1:{stack.enter_context(faulty.full_backlog())}/a"
        for name, url in urls.items():
            doc, expected = LISTENERS[name]
            faults[name] = Fault(name, doc, url, (expected,), (expected,))
        if shutil.which("openssl"):
            certificates = faulty.make_certificates(directory)
            for kind, doc in TLS_KINDS.items():
                server = stack.enter_context(faulty.tls_backend(certificates, kind))
                faults[f"tls_{kind}"] = Fault(f"tls_{kind}", doc, server.url_of("ok"), (UNREACHABLE,), (UNREACHABLE,))
        yield faults


class Player:
    """Sends the hooks and gathers what became of them."""

    def __init__(self, gateway: RunningGateway, backend: FaultyBackend, world: World, client: httpx.Client) -> None:
        self.gateway = gateway
        self.backend = backend
        self.world = world
        self.client = client

    def send(self, app: str) -> Encounter:
        request_id = uuid.uuid4().hex
        body = json.dumps({"nodeId": "node", "appKey": app, "callId": f"call-{request_id}"}).encode()
        response = self.client.post(
            f"{self.gateway.url}/OnCallEvent",
            content=body,
            headers={"Content-Type": "application/json;charset=UTF-8", "X-Request-Id": request_id},
        )
        return Encounter(request_id, body, response)

    def meet(self, fault: Fault) -> None:
        """Two hooks to the same fault, with the time between them that the gateway needs to clear up."""
        world = self.world
        world.first[fault.name] = self.send(fault.name)
        if fault.recorded:
            most = 0 if fault.name in SELF_CLOSING else fault.connections_after
            wait_until(lambda: self.backend.open_connections(fault.name) <= most, 5.0)
            world.connections[fault.name] = self.backend.open_connections(fault.name)
        world.second[fault.name] = self.send(fault.name)

    def overload(self, pool: ThreadPoolExecutor) -> None:
        """One hook holds the only connection while others wait for it in vain."""
        holder = pool.submit(self.send, "holder")
        before = len(self.backend.requests_of("hang"))
        assert self.backend.wait_for_requests(before + 1, "hang", 5.0)
        for app in ("queued", "allow-queued"):
            self.world.allowing[app] = self.send(app)
        self.world.allowing["holder"] = holder.result()

    def play_all(self) -> None:
        world = self.world
        allowing = (*FALLBACK_CASES, *STILL_DENIED, "listener_refused", "dns_no_such_host")
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            list(pool.map(self.meet, world.faults.values()))
            for name, encounter in zip(
                allowing, pool.map(lambda name: self.send(f"allow-{name}"), allowing), strict=True
            ):
                world.allowing[name] = encounter
            self.overload(pool)
        world.allowing["loop"] = self.send("loop")

    def gather(self) -> None:
        """Bring together the answers, the log, the metrics and what the backend saw."""
        world = self.world
        by_id = {encounter.request_id: encounter for encounter in world.encounters}
        wait_until(lambda: len(self.gateway.access_lines()) > len(by_id))  # the loop's and the warm-up's come on top
        for line in self.gateway.access_lines():
            if line["request_id"] in by_id:
                by_id[line["request_id"]].lines.append(line)
        for request in self.backend.requests:
            by_id[request.values("x-request-id")[0].decode()].requests.append(request)
        for family in text_string_to_metric_families(self.client.get(f"http://{self.gateway.admin}/metrics").text):
            for sample in family.samples:
                labels, value = sample.labels, int(sample.value)
                if sample.name == "gateway_hooks_total":
                    world.hooks.setdefault(labels["app"], Counter())[labels["reason"]] += value
                elif sample.name == "gateway_upstream_attempts_total":
                    world.attempts.setdefault(labels["upstream"], Counter())[labels["outcome"]] += value
                elif sample.name == "gateway_hooks_in_flight":
                    world.in_flight = max(world.in_flight, sample.value)


def descriptors_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("faults")
    with FaultyBackend() as backend, all_faults(directory, backend) as faults:
        world = World(faults)
        config = config_of(faults, backend)
        with running_gateway(config, directory) as gateway:
            with httpx.Client(trust_env=False, timeout=20.0) as client:
                player = Player(gateway, backend, world, client)
                player.send("warm-up")
            baseline = descriptors_of(gateway.pid)
            with httpx.Client(trust_env=False, timeout=20.0) as client:
                gateway.write_config(config_of(faults, backend, gateway.hooks))
                client.post(f"http://{gateway.admin}/-/reload").raise_for_status()
                player = Player(gateway, backend, world, client)
                player.play_all()
                player.gather()
                gateway.write_config(LISTEN + "apps: {warm-up: {static: allow}}\n")
                client.post(f"http://{gateway.admin}/-/reload").raise_for_status()
                world.alive = player.send("warm-up").response.status_code == 200
            wait_until(lambda: descriptors_of(gateway.pid) <= baseline)
            world.descriptors = baseline, descriptors_of(gateway.pid)
            backend.wait_for_connections(0, within=5.0)
            world.left_open = backend.open_connections()
            world.log = gateway.log.read_text()
        world.problems = list(backend.problems)
        if path := os.environ.get("FAULT_TABLE"):
            Path(path).write_text(table_of(world))
        yield world


def table_of(world: World) -> str:
    """What each fault came to, for the release notes."""
    rows = [
        "| Fault | What the backend does | Status | Reason | Proxy-Status | ms |",
        "|---|---|---:|---|---|---:|",
    ]
    for fault in world.faults.values():
        met = world.first[fault.name]
        line = met.lines[0]
        token = met.response.headers.get("proxy-status", "").removeprefix("gateway; ")
        doc = fault.doc.replace("|", "\\|")
        rows.append(
            f"| `{fault.name}` | {doc} | {met.response.status_code} | {line['reason']} | {token} "
            f"| {line['duration_ms']:.1f} |"
        )
    counts = Counter(world.first[name].lines[0]["reason"] for name in world.faults)
    summary = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
    return "\n".join((*rows, "", f"{len(world.faults)} faults: {summary}.", ""))


@pytest.fixture(params=NAMES)
def fault(request: pytest.FixtureRequest, world: World) -> Fault:
    found = world.faults.get(request.param)
    if found is None:
        pytest.skip("this machine cannot play it: no openssl command, or a kernel that never fills a queue")
    return found


def body_of(fault: Fault, encounter: Encounter) -> bytes:
    return fault.body(encounter.sent) if encounter.outcome.verdict == "allow" else b""


def test_a_fault_ends_in_its_verdict(fault: Fault, world: World) -> None:
    met = world.first[fault.name]
    assert met.outcome in fault.allowed, met
    assert met.response.content == body_of(fault, met)


def test_the_next_hook_meets_a_gateway_that_has_recovered(fault: Fault, world: World) -> None:
    met = world.second[fault.name]
    assert met.outcome in fault.second, met
    assert met.response.content == body_of(fault, met)


def test_an_answer_carries_the_gateways_own_headers_alone(fault: Fault, world: World) -> None:
    for met in (world.first[fault.name], world.second[fault.name]):
        headers = met.response.headers
        assert set(headers) <= OWN_HEADERS
        assert headers.get_list("x-request-id") == [met.request_id]
        assert headers.get_list("content-length") == [str(len(met.response.content))]
        assert headers.get("content-type") == ("application/json" if met.response.content else None)


def test_proxy_status_says_what_went_wrong_where_the_gateway_decided(fault: Fault, world: World) -> None:
    for met in (world.first[fault.name], world.second[fault.name]):
        line, said = met.lines[0], met.response.headers.get("proxy-status")
        assert line["source"] == ("backend" if met.outcome in (OK, DENIED) else "fallback")
        if line["source"] == "backend":
            assert (said, line["error"]) == (None, "")
            continue
        assert re.fullmatch(r"gateway; error=[a-z_]+(; received-status=[1-5]\d\d)?", said or ""), said
        assert line["error"]
        if met.outcome == ERROR_STATUS:
            assert "received-status=" in (said or "")


def test_one_access_line_tells_of_each_hook(fault: Fault, world: World) -> None:
    for met in (world.first[fault.name], world.second[fault.name]):
        (line,) = met.lines
        assert line["app"] == line["upstream"] == fault.name
        assert line["target"] == httpx.URL(fault.url).netloc.decode()
        assert line["method"] == "OnCallEvent"
        assert line["status"] == met.response.status_code
        assert line["call_id"] == f"call-{met.request_id}"


def test_each_hook_and_each_attempt_is_counted_once(fault: Fault, world: World) -> None:
    lines = [met.lines[0] for met in (world.first[fault.name], world.second[fault.name])]
    assert world.hooks[fault.name] == Counter(line["reason"] for line in lines)
    outcomes = Counter(line["reason"] for line in lines)
    outcomes["unreachable"] += sum(line["attempts"] - 1 for line in lines)  # what came before a second attempt
    assert world.attempts[fault.name] == +outcomes


def test_the_backend_is_asked_once(fault: Fault, world: World) -> None:
    """Tried twice is only what cannot have arrived: no connection, or one that the backend had closed meanwhile."""
    for met in (world.first[fault.name], world.second[fault.name]):
        attempts = met.lines[0]["attempts"]
        turns = [request.turn for request in met.requests]
        if not fault.recorded:
            assert turns == []
            assert attempts == 1 or (attempts == 2 and met.outcome == UNREACHABLE)
        elif attempts == 2:
            assert turns in ([2, 1], [1])  # the first may have met a connection that was closed already
        else:
            assert (attempts, len(turns)) == (1, 1)


def test_a_request_reaches_the_backend_byte_for_byte(fault: Fault, world: World) -> None:
    for met in (world.first[fault.name], world.second[fault.name]):
        for request in met.requests:
            assert not request.chunked
            assert request.body == (met.sent if request.complete else b"")
            assert request.values("content-length") == [b"%d" % len(met.sent)]
            assert not request.values("cookie")


@pytest.mark.parametrize("name", CASES)
def test_no_connection_in_doubt_is_kept(world: World, name: str) -> None:
    assert world.connections[name] <= world.faults[name].connections_after


HUNG: Final = [*(case.name for case in CASES.values() if case.expect == TIMEOUT), "listener_hangs"]


@pytest.mark.parametrize("name", HUNG)
def test_a_hung_backend_is_answered_for_in_time(world: World, name: str) -> None:
    assert world.first[name].lines[0]["duration_ms"] < (BUDGET + 3.0) * 1000  # a busy machine may take its time


BY_FALLBACK: Final = {
    **FALLBACK_CASES,
    "listener_refused": UNREACHABLE,
    "dns_no_such_host": UNREACHABLE,
    "allow-queued": Expected(403, "overload", "reject"),
}


@pytest.mark.parametrize("name", BY_FALLBACK)
def test_fallback_allow_answers_with_the_requests_own_body(world: World, name: str) -> None:
    met = world.allowing[name]
    assert met.outcome == Expected(200, BY_FALLBACK[name].reason, "allow")
    assert met.response.content == met.sent
    assert met.response.headers["content-type"] == "application/json"
    assert met.response.headers["proxy-status"].startswith("gateway; error=")
    assert set(met.response.headers) <= OWN_HEADERS


@pytest.mark.parametrize("name", STILL_DENIED)
def test_a_refusal_stays_one_whatever_the_fallback_and_its_body(world: World, name: str) -> None:
    met = world.allowing[name]
    assert (met.outcome, met.response.content) == (DENIED, b""), met
    assert "proxy-status" not in met.response.headers


def test_a_hook_that_waits_in_vain_for_a_connection_is_overload(world: World) -> None:
    met = world.allowing["queued"]
    assert met.outcome == Expected(403, "overload", "reject")
    assert met.response.headers["proxy-status"] == "gateway; error=connection_limit_reached"
    assert met.requests == []


def test_a_target_that_is_the_gateway_itself_ends_at_the_second_pass(world: World) -> None:
    met = world.allowing["loop"]
    assert (met.response.status_code, met.response.content) == (403, b"")
    assert met.response.headers["proxy-status"] == "gateway; error=http_protocol_error; received-status=400"
    assert [(line["reason"], line["attempts"]) for line in met.lines] == [("bad_request", 0), ("error_status", 1)]


def test_no_answer_is_another_hooks_or_the_callers(world: World) -> None:
    for met in world.encounters:
        assert WRONG_ANSWER not in met.response.content
        assert CALLER_INPUT not in met.response.content


def test_the_log_has_no_error_and_nothing_of_a_body(world: World) -> None:
    lines = [json.loads(line) for line in world.log.splitlines()]
    assert [line for line in lines if line.get("level") in ("error", "critical")] == []
    for secret in ("secret", "PHPSESSID", "restPolicy", "stack trace"):
        assert secret not in world.log


def test_every_request_satisfied_a_strict_server(world: World) -> None:
    assert world.problems == []


def test_afterwards_the_gateway_lives_and_holds_nothing(world: World) -> None:
    before, after = world.descriptors
    assert world.alive
    assert world.in_flight == 0
    assert after <= before
    assert world.left_open == 0
