"""Every answer of two public suites, played by a backend: each hook ends in the contract, in time, and nothing leaks.

All hooks are sent once, side by side, when the first test asks for them; the tests judge what was recorded.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.support.gateways import LISTEN, ROOT, RunningGateway, running_gateway

CORPUS: Final = ROOT.parent / "shared" / "corpora" / "http_responses.jsonl"
BUDGET: Final = 1.0
"""Seconds: what an answer without an end costs."""
GRACE: Final = 4.0
"""Seconds beyond it that a busy test machine may take; a hook without a deadline would take for ever."""
SIDE_BY_SIDE: Final = 16
OWN_HEADERS: Final = {"cache-control", "content-type", "content-length", "x-request-id", "proxy-status", "date"}
PLAYS: Final = ("close", "stay")
"""What the backend does behind an answer: closes, as those without a length want; or stays, and is silent."""
CAUSES: Final = {
    "timeout": {"http_response_timeout"},
    "unreachable": {"connection_terminated"},
    "bad_answer": {
        "http_protocol_error", "http_response_incomplete", "http_upgrade_failed", "http_response_header_section_size",
        "http_response_transfer_coding", "http_response_content_coding", "http_response_body_size",
        "http_response_header_size",
    },
    "error_status": {"http_request_error", "destination_unavailable", "received-status"},
}  # fmt: skip
"""Causes that an answer of a backend can have, and RFC 9209's words for them."""

pytestmark = pytest.mark.skipif(not CORPUS.exists(), reason=f"{CORPUS.name} is not beside this repository")


class Reply(NamedTuple):
    """One raw answer of a suite."""

    name: str
    suite: str
    expect: str
    raw: bytes


@dataclass(frozen=True)
class Met:
    """One hook that met it."""

    reply: Reply
    play: str
    sent: bytes
    answer: httpx.Response
    seconds: float
    asked: int
    """Requests that the backend had from it."""
    line: dict[str, Any]


RIGHT: Final = Reply(
    "a right answer", "own", "right", b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n" + b'{"ok": true}'
)
"""The corpus holds no JSON object: this one shows that the player's answers can be allowed at all."""

NOT_OF_THE_MESSAGE: Final = {
    "connection:HTTP/1.1 with keep-alive disabled and 204 status": "status 204",
    "connection:HTTP/1.1 with keep-alive disabled, content-length": "status 200 with something else",
}
"""Answers that are right in themselves, and what the gateway says of them.

llhttp rejects what follows an answer that said Connection: close. The gateway takes no second answer from a connection
of that kind: it judges the first, and closes.
"""


class Player:
    """A backend that reads a whole request and plays the answer that its path names, byte for byte."""

    def __init__(self, replies: list[Reply]) -> None:
        self._replies = replies
        self.asked: dict[str, int] = {}
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(5)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(30)
        with self._lock:
            self._open.add(sock)
        with sock, sock.makefile("rb") as stream, contextlib.suppress(OSError):
            while line := stream.readline():
                length = 0
                while (field := stream.readline()) not in (b"\r\n", b""):
                    name, _, value = field.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                stream.read(length)
                _, play, number, _ = line.split(b" ")[1].decode().split("/")
                with self._lock:
                    key = f"{play}/{number}"
                    self.asked[key] = self.asked.get(key, 0) + 1
                sock.sendall(self._replies[int(number)].raw)
                if play == "close":
                    break
        with self._lock:
            self._open.discard(sock)


@pytest.fixture(scope="module")
def replies() -> list[Reply]:
    rows = [json.loads(line) for line in CORPUS.read_text().splitlines()]
    return [*(Reply(row["id"], row["suite"], row["expect"], base64.b64decode(row["b64"])) for row in rows), RIGHT]


@pytest.fixture(scope="module")
def player(replies: list[Reply]) -> Iterator[Player]:
    running = Player(replies)
    yield running
    running.close()


@pytest.fixture(scope="module")
def gateway(replies: list[Reply], player: Player, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    names = [f"{play}-{number}" for play in PLAYS for number in range(len(replies))]
    # One upstream for each, so that no connection, breaker or queue is shared.
    upstreams = {
        name: {"url": f"http://127.0.0.1:{player.port}/{name.replace('-', '/')}", "breaker": "off"} for name in names
    }
    config = {
        "defaults": {"timeout": f"{BUDGET}s", "dedupe": "off"},
        "upstreams": upstreams,
        "apps": {name: {"upstream": name} for name in names},
    }
    text = LISTEN + "\n".join(f"{key}: {json.dumps(value)}" for key, value in config.items())
    with running_gateway(text, tmp_path_factory.mktemp("corpus")) as running:
        yield running


@pytest.fixture(scope="module")
def met(gateway: RunningGateway, player: Player, replies: list[Reply]) -> list[Met]:
    def send(play: str, number: int) -> tuple[bytes, httpx.Response, float]:
        body = json.dumps({"appKey": f"{play}-{number}", "callId": f"call-{play}-{number}"}).encode()
        began = time.monotonic()
        answer = gateway.hook(body=body)
        return body, answer, time.monotonic() - began

    cases = [(play, number) for play in PLAYS for number in range(len(replies))]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        results = list(pool.map(lambda case: send(*case), cases))
    gateway.wait_for_line(lambda line: line.get("request_id") == results[-1][1].headers["x-request-id"])
    ids = {answer.headers["x-request-id"] for _, answer, _ in results}
    gateway.wait_for_line(lambda _: ids <= {line["request_id"] for line in gateway.access_lines()})
    lines = {line["request_id"]: line for line in gateway.access_lines()}
    return [
        Met(
            replies[number], play, body, answer, seconds,
            player.asked.get(f"{play}/{number}", 0), lines[answer.headers["x-request-id"]],
        )
        for (play, number), (body, answer, seconds) in zip(cases, results, strict=True)
    ]  # fmt: skip


def named(met: list[Met]) -> list[str]:
    return [f"{one.reply.suite} {one.reply.name} ({one.play})" for one in met]


def test_the_corpus_is_whole(met: list[Met]) -> None:
    assert len(met) == len(PLAYS) * (185 + 1)


def test_a_right_answer_is_allowed(met: list[Met]) -> None:
    for one in met:
        if one.reply is RIGHT:
            assert (one.answer.status_code, one.answer.content) == (200, b'{"ok": true}')


def test_each_hook_ends_in_a_status_of_the_contract(met: list[Met]) -> None:
    assert named([one for one in met if one.answer.status_code not in (200, 403)]) == []


def test_each_hook_is_answered_within_its_budget(met: list[Met]) -> None:
    assert named([one for one in met if one.seconds > BUDGET + GRACE]) == []


def test_each_hook_reaches_the_backend_once(met: list[Met]) -> None:
    assert named([one for one in met if one.asked != 1]) == []


def test_only_a_200_with_one_json_object_is_an_allow_and_goes_on_byte_for_byte(met: list[Met]) -> None:
    for one in met:
        if one.answer.status_code != 200:
            continue
        assert one.reply.raw.startswith(b"HTTP/1."), one
        assert b" 200" in one.reply.raw.split(b"\r\n")[0], one
        assert isinstance(json.loads(one.answer.content), dict), one
        assert one.answer.content in one.reply.raw, one
        assert one.answer.content != one.sent, one


def test_a_403_is_the_backend_s_own_or_has_a_cause(met: list[Met]) -> None:
    for one in met:
        if one.answer.status_code != 403:
            continue
        assert one.answer.content == b""
        if one.line["reason"] == "denied":
            assert b" 403" in one.reply.raw[:16], one
            assert one.line["source"] == "backend"
            assert "proxy-status" not in one.answer.headers
        else:
            status = one.answer.headers["proxy-status"]
            assert status.startswith("gateway; error="), one
            words = {word.partition("=")[0] if "received" in word else word for word in status[15:].split("; ")}
            assert words & CAUSES[one.line["reason"]], (status, one)


def test_what_must_be_rejected_is_never_taken_for_an_answer(met: list[Met]) -> None:
    rejected = [one for one in met if one.reply.expect == "reject"]
    assert len(rejected) == len(PLAYS) * 17
    for one in rejected:
        assert one.answer.status_code == 403, one
        said = NOT_OF_THE_MESSAGE.get(one.reply.name)
        if said is not None:
            assert one.line["error"].startswith(said), one
        else:
            assert one.line["reason"] == "bad_answer", one
            assert "malformed HTTP" in one.line["error"] or "not an HTTP/1 answer" in one.line["error"], one


def test_no_header_and_no_error_page_of_the_backend_leaks(met: list[Met]) -> None:
    for one in met:
        assert {name.lower() for name in one.answer.headers} <= OWN_HEADERS, one
        if one.answer.status_code == 403:
            assert one.answer.headers["content-length"] == "0"


def test_each_hook_has_one_access_line_that_tells_the_same(met: list[Met], gateway: RunningGateway) -> None:
    ids = [line["request_id"] for line in gateway.access_lines()]
    assert len(ids) == len(set(ids)) == len(met)
    for one in met:
        assert one.line["status"] == one.answer.status_code
        assert one.line["verdict"] == ("allow" if one.answer.status_code == 200 else "reject")
        assert one.line["app"] == json.loads(one.sent)["appKey"]
        assert len(json.dumps(one.line)) < 4096


@pytest.fixture(scope="module")
def samples(met: list[Met], gateway: RunningGateway) -> list[Sample]:
    """The metrics after all that."""
    assert met
    families = text_string_to_metric_families(gateway.get("/metrics").text)
    return [sample for family in families for sample in family.samples]


def test_nothing_was_raised(samples: list[Sample], gateway: RunningGateway) -> None:
    assert [line for line in gateway.lines() if line.get("level") in ("error", "critical") or "exception" in line] == []
    assert not any(sample.labels.get("reason") == "internal" for sample in samples)


def test_afterwards_nothing_is_left_behind(met: list[Met], samples: list[Sample]) -> None:
    assert sum(sample.value for sample in samples if sample.name == "gateway_hooks_total") == len(met)
    assert sum(sample.value for sample in samples if sample.name == "gateway_hooks_in_flight") == 0
    open_now = {
        sample.labels["upstream"]: sample.value for sample in samples if sample.name == "gateway_target_connections"
    }
    assert len(open_now) == len(met)
    failed = [one for one in met if one.line["reason"] in ("timeout", "bad_answer", "unreachable")]
    kept = [one for one in failed if open_now[one.line["upstream"]] and not is_framed(one.reply.raw)]
    assert named(kept) == []


def is_framed(raw: bytes) -> bool:
    """Whether an answer's end is known from its own bytes: then its connection may be used again."""
    head, _, body = raw.partition(b"\r\n\r\n")
    lengths = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    if len(lengths) != 1:
        return b"chunked" in head.lower()
    # llhttp passes over line breaks between two answers: nothing in them could be taken for another hook's.
    return int(lengths[0]) in (len(body), len(body.rstrip(b"\r\n")))
