"""``gateway replay``: what is played and how, what is found, and what a person and a script get."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.model.hooks import MethodType
from gateway.recording.replay import HookFilter, Options, Player, Recording, Tally, UnreadableError
from gateway.recording.replay import reader as reading_module
from gateway.recording.replay.reader import _COMPRESSED
from tests.support.command_line import invoke
from tests.support.faulty import CASES, FaultyBackend, make_certificates, tls_backend
from tests.support.gateways import ROOT, wait_until

PATIENCE: Final = 20.0
HOOK: Final = {"appKey": "defaultApp", "sessionId": "s1", "callId": "c1", "caller": "PPP009", "callee": "PPP005"}


# --- backends ---


class Seen(NamedTuple):
    """A hook as the backend had it."""

    path: str
    headers: dict[str, str]
    body: bytes
    began: float
    ended: float


Reply = tuple[int, bytes] | None


class Server(ThreadingHTTPServer):
    """Bears it in silence that a client leaves."""

    daemon_threads = True
    request_queue_size = 128  # of five, the kernel lets a burst of connections wait for a second

    def handle_error(self, *args: Any) -> None:
        pass


class Backend:
    """A candidate: *decide* says what it answers; None cuts the connection."""

    def __init__(self, decide: Callable[[str, Any], Reply], pause: float = 0.0) -> None:
        seen: list[Seen] = []
        self.seen = seen

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                began = time.monotonic()
                body = self.rfile.read(int(self.headers["Content-Length"]))
                method = self.path.rpartition("/")[2]
                reply = decide(method, json.loads(body))
                if pause:
                    threading.Event().wait(pause)
                seen.append(Seen(self.path, dict(self.headers.items()), body, began, time.monotonic()))
                if reply is None:
                    self.close_connection = True
                    return
                self.send_response(reply[0])
                self.send_header("Content-Length", str(len(reply[1])))
                self.end_headers()
                self.wfile.write(reply[1])

            def log_request(self, *args: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/rest/my_api"

    def __enter__(self) -> Backend:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def hooks(self) -> list[Any]:
        return [json.loads(seen.body) for seen in self.seen]


def echo(method: str, hook: Any) -> Reply:
    return 200, json.dumps(hook).encode()


@pytest.fixture
def same() -> Iterator[Backend]:
    """One that allows everything as it came."""
    with Backend(echo) as backend:
        yield backend


# --- recordings ---

_numbers: Final = itertools.count(1)


def record(hook: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    number = next(_numbers)
    return {
        "v": 1, "run": "0a1b2c3d", "time": f"2026-01-31T02:41:{number % 60:02}.000Z", "request_id": f"r{number}",
        "app": "defaultApp", "appKey": "defaultApp", "method": "OnCallEvent", "hook": {**HOOK, **(hook or {})},
        "verdict": "allow", "source": "backend", "reason": "ok", "error": "", "status": 200, "answer": "same",
        "upstream": "php", "target": "php:80", "duration_ms": 12.5, "upstream_ms": 11.0,
        "masked": ["caller", "callee"], "remarks": None, **changes,
    }  # fmt: skip


REFUSED: Final[dict[str, Any]] = {"verdict": "reject", "reason": "denied", "status": 403, "answer": None}


def write(path: Path, *records: dict[str, Any] | bytes) -> Path:
    lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in records]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hooks.jsonl"


class Run:
    """What the command left behind."""

    def __init__(self, *args: Any) -> None:
        result = invoke("replay", *map(str, args))
        self.status, self.out, self.err = result.exit_code, result.stdout, result.stderr
        assert "Traceback" not in self.err

    def __repr__(self) -> str:
        return f"<exit {self.status}\n{self.out}\n{self.err}>"


def as_json(*args: Any) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(Run(*args, "--json", "-").out)
    return report


# --- what is found ---


def test_a_backend_that_decides_as_its_predecessor_agrees_with_exit_status_0(path: Path, same: Backend) -> None:
    write(path, *(record({"sessionId": f"s{n}"}) for n in range(50)))
    run = Run(path, "--to", same.url)
    assert run.status == 0, run
    assert re.search(r"^agreed +50 +of 50 compared by verdict$", run.out, re.MULTILINE), run
    assert "Result: the backend decides as recorded." in run.out
    assert len(same.seen) == 50


def test_a_planted_disagreement_is_found_among_many_and_told_with_its_line(path: Path) -> None:
    records = [record({"sessionId": f"s{n}", "callee": f"PPP{n:03}"}) for n in range(60)]
    write(path, *records)

    def decide(method: str, hook: Any) -> Reply:
        return (403, b"") if hook["callee"] == "PPP041" else echo(method, hook)

    with Backend(decide) as backend:
        run = Run(path, "--to", backend.url)
    assert run.status == 1
    assert re.search(r"^agreed +59 +of 60", run.out, re.MULTILINE), run
    assert "allow became reject: 1 hook" in run.out
    assert f"{path}:42  defaultApp OnCallEvent  {records[41]['request_id']}" in run.out
    assert "Result: the backend's decisions differ from the recording." in run.out


@pytest.mark.parametrize(
    ("status", "body", "agrees"),
    [
        (200, b"", True), (204, b"", True), (201, b"stored", True), (200, b"[]", True), (403, b"", False),
        (500, b"", False), (302, b"", False),
        (200, b"<br />\n<b>Fatal error</b>:  no in <b>/a.php</b> on line <b>3</b><br />\n{}", False),
    ],
)  # fmt: skip
def test_an_event_is_delivered_by_any_2xx_as_through_the_gateway(
    path: Path, status: int, body: bytes, agrees: bool
) -> None:
    write(path, record(method="CallStatusEvent"))
    with Backend(lambda method, hook: (status, body)) as backend:
        run = Run(path, "--to", backend.url, "--all-methods", "--compare", "body")
    assert (run.status == 0) is agrees, run


def test_a_refusal_of_then_that_is_allowed_now_is_a_disagreement(path: Path, same: Backend) -> None:
    write(path, record(**REFUSED))
    report = as_json(path, "--to", same.url)
    assert (report["agreed"], report["disagreements"]) == (False, {"reject became allow": 1})


def test_bodies_are_compared_where_that_is_asked_for_and_differences_are_told_by_field(path: Path) -> None:
    answer = {**HOOK, "restClientConfig": {"OnCallEvent": {"restOnError": "FAIL"}}, "ts": 1}
    write(path, *(record({"sessionId": f"s{n}"}, answer=answer) for n in range(12)))
    theirs = {**answer, "restClientConfig": {"OnCallEvent": {"restOnError": "LOG"}}, "ts": 2}
    with Backend(lambda method, hook: (200, json.dumps(theirs).encode())) as backend:
        assert Run(path, "--to", backend.url).status == 0
        run = Run(path, "--to", backend.url, "--compare", "body")
        ignoring = as_json(path, "--to", backend.url, "--compare", "body", "--ignore", "ts")
        assert as_json(
            path, "--to", backend.url, "--compare", "body", "--ignore", "ts", "--ignore",
            "restClientConfig.OnCallEvent.restOnError",
        )["agreed"]  # fmt: skip
    assert run.status == 1
    assert "bodies differ: 12 hooks, in " in run.out
    assert 'restClientConfig.OnCallEvent.restOnError: "FAIL" became "LOG"' in run.out
    assert run.out.count("  defaultApp OnCallEvent  ") == 5  # the first examples
    assert ignoring["paths"] == {"restClientConfig.OnCallEvent.restOnError": 12}


def test_numbers_and_secrets_are_not_told(path: Path) -> None:
    hook = {"caller": "+4930123456", "token": "***"}
    write(path, record(hook, masked=[]))
    with Backend(lambda method, hook: (200, b'{"caller":"+4977777777","token":"S3cr3t","x":"+4930123456"}')) as backend:
        run = Run(path, "--to", backend.url, "--compare", "body")
        again = as_json(path, "--to", backend.url, "--compare", "body")
    assert run.status == 1
    for told in (run.out, json.dumps(again)):
        assert "S3cr3t" not in told
        assert "30123456" not in told
        assert "777777" not in told


def test_a_secret_that_the_recording_has_stars_for_is_no_difference(path: Path) -> None:
    write(path, record(answer={"authToken": "***", "x": 1}))
    with Backend(lambda method, hook: (200, b'{"x":1,"authToken":"S3cr3t"}')) as backend:
        assert as_json(path, "--to", backend.url, "--compare", "body")["agreed"]


def test_stars_that_a_backend_may_have_refused_are_told_of(path: Path, same: Backend) -> None:
    write(path, record({"token": "***"}, **REFUSED), record({"sdp": "a=ice-pwd:***"}, **REFUSED))
    assert "The recording has stars for secrets, such as tokens, in 1 hook:" in Run(path, "--to", same.url).out
    write(path, record({"token": "***"}))
    assert "stars" not in Run(path, "--to", same.url).out


def test_a_masked_field_that_both_have_overwritten_is_not_compared_and_that_is_told(path: Path) -> None:
    write(path, record(answer={**HOOK, "callee": "QQQ123"}), record(answer={**HOOK, "callee": "QQQ123", "x": 1}))
    with Backend(lambda method, hook: (200, json.dumps({**HOOK, "callee": "support"}).encode())) as backend:
        report = as_json(path, "--to", backend.url, "--compare", "body")
    assert (report["fields_not_compared"], report["paths"]) == (2, {"x": 1})


def test_a_masked_field_that_only_one_has_overwritten_is_a_difference(path: Path, same: Backend) -> None:
    write(path, record(answer={**HOOK, "callee": "QQQ123"}))
    assert as_json(path, "--to", same.url, "--compare", "body")["paths"] == {"callee": 1}


def test_an_answer_that_the_gateway_itself_amended_is_compared_by_its_verdict_only(path: Path, same: Backend) -> None:
    write(path, record(answer={"x": 1}, remarks={"client_config": "enforced"}), record(answer="unreadable"))
    assert as_json(path, "--to", same.url, "--compare", "body")["agreed"]


def test_hooks_that_no_backend_decided_are_played_but_counted_apart(path: Path, same: Backend) -> None:
    sources = [("fallback", "timeout"), ("rule", "ok"), ("static", "ok"), ("duplicate", "ok"), ("fallback", "timeout")]
    write(path, record(), *(record(source=source, reason=reason) for source, reason in sources))
    run = Run(path, "--to", same.url)
    assert run.status == 0
    assert len(same.seen) == 6
    assert re.search(r"^not compared +5 +no backend had decided: fallback/timeout 2, ", run.out, re.MULTILINE), run


def test_where_nothing_could_be_compared_nothing_agreed(path: Path, same: Backend) -> None:
    write(path, record(source="static"))
    run = Run(path, "--to", same.url)
    assert run.status == 1
    assert "Nothing to compare" in run.out


@pytest.mark.parametrize(
    ("case", "cause"),
    [
        ("ok", None), ("ok_http10", None), ("denied", None), ("hang", "timeout"), ("trickle_body", "timeout"),
        ("reset_before_answer", "unreachable"), ("close_without_a_byte", "unreachable"),
        ("status_500", "error_status"), ("status_600", "bad_answer"), ("status_999", "bad_answer"),
        ("redirect_302", "error_status"), ("status_204", "error_status"),
        ("half_body_close", "bad_answer"), ("length_zero", "bad_answer"), ("endless_head", "bad_answer"),
        ("denied_half_close", None), ("denied_half_silence", None), ("status_500_half_close", "error_status"),
    ],
)  # fmt: skip
def test_a_faulty_backend_fails_with_the_causes_of_the_gateway(path: Path, case: str, cause: str | None) -> None:
    write(path, record())
    with FaultyBackend() as backend:
        report = as_json(path, "--to", backend.url_of(case), "--timeout", "0.5")
    assert report["failures"] == ({} if cause is None else {cause: 1})


def test_adversarial_whatever_a_backend_does_a_hook_is_counted_once_and_in_time(path: Path) -> None:
    write(path, record())

    async def play(url: str, few: asyncio.Semaphore) -> Tally:
        recording, tally = Recording([str(path)], HookFilter()), Tally()
        async with few, asyncio.timeout(PATIENCE):
            await Player(recording, Options(url, timeout=0.7), tally).play()
        recording.close()
        return tally

    async def every() -> list[Tally]:
        few = asyncio.Semaphore(32)
        return await asyncio.gather(*(play(backend.url_of(case), few) for case in CASES))

    with FaultyBackend() as backend:
        tallies = asyncio.run(every())
    assert len(tallies) > 100
    assert {(tally.played, tally.compared + tally.failed) for tally in tallies} == {(1, 1)}


def test_a_backend_behind_tls_is_asked_if_the_system_trusts_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, record())
    certificates = make_certificates(tmp_path)
    with tls_backend(certificates, "valid") as backend:
        url = backend.url_of("ok").replace("127.0.0.1", "localhost")
        assert as_json(path, "--to", url)["failures"] == {"unreachable": 1}
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
        assert as_json(path, "--to", url)["agreed"]


def test_nobody_there_is_a_failure_told_once_for_all(path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    write(path, *(record({"sessionId": f"s{n}"}) for n in range(20)))
    run = Run(path, "--to", f"http://127.0.0.1:{port}")
    assert run.status == 1
    assert "unreachable: 20 hooks" in run.out
    assert run.out.count("  defaultApp OnCallEvent  ") == 5


@pytest.mark.parametrize(("asked_before", "times", "agreed"), [(True, 2, True), (False, 1, False)])
def test_a_kept_connection_that_ends_without_an_answer_is_no_failure_unless_a_new_one_ends_so_too(
    path: Path, asked_before: bool, times: int, agreed: bool
) -> None:
    asked = Counter[str]()

    def decide(method: str, hook: Any) -> Reply:
        asked[hook["callId"]] += 1
        return None if hook["callId"] == "cut" and asked["cut"] == 1 else echo(method, hook)

    write(path, *[record()] * asked_before, record({"callId": "cut"}))
    with Backend(decide) as backend:
        report = as_json(path, "--to", backend.url, "--concurrency", 1)
    assert (asked["cut"], report["agreed"]) == (times, agreed)


def test_adversarial_an_endless_answer_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.recording.replay.player.MAX_ANSWER", 100_000)
    write(path, record())
    with Backend(lambda method, hook: (200, b'{"x":"' + b"y" * 200_000 + b'"}')) as backend:
        assert as_json(path, "--to", backend.url)["failures"] == {"bad_answer": 1}


def test_latencies_stand_beside_those_of_then(path: Path, same: Backend) -> None:
    write(path, *(record({"sessionId": f"s{n}"}, upstream_ms=float(n)) for n in range(1, 101)))
    report = as_json(path, "--to", same.url)
    assert report["recorded_ms"] == {"p50": 51.0, "p95": 96.0, "p99": 100.0, "max": 100.0}
    assert 0 < report["candidate_ms"]["p50"] <= report["candidate_ms"]["max"]
    assert re.search(r"^as recorded +51 ms +96 ms +100 ms +100 ms$", Run(path, "--to", same.url).out, re.MULTILINE)


# --- how it is played ---


def test_a_hook_is_sent_as_it_is_recorded_and_says_that_it_is_a_replay(path: Path, same: Backend) -> None:
    body = json.dumps(HOOK | {"n": 1.50, "u": "\u00fc"}, separators=(" , ", " : ")).encode()
    line = json.dumps(record()).encode().replace(json.dumps(HOOK).encode(), body)
    assert body in line
    write(path, line)
    Run(path, "--to", same.url + "/")
    (seen,) = same.seen
    assert seen.body == body
    assert seen.path == "/rest/my_api/OnCallEvent"
    assert seen.headers["X-Gateway-Replay"] == "1"
    assert seen.headers["X-Request-Id"] == json.loads(line)["request_id"]
    assert seen.headers["Content-Type"] == "application/json;charset=UTF-8"


def test_hooks_of_a_session_come_in_order_and_one_at_a_time_while_sessions_go_side_by_side(path: Path) -> None:
    records = [record({"sessionId": f"s{n % 4}", "n": n}, time=f"2026-01-31T02:41:00.{n:03}Z") for n in range(40)]
    write(path, *records[20:], *records[:20])  # as rotated files come
    with Backend(echo, pause=0.01) as backend:
        assert Run(path, "--to", backend.url, "--concurrency", "4").status == 0
    spans: dict[str, list[Seen]] = {}
    for seen in backend.seen:
        spans.setdefault(json.loads(seen.body)["sessionId"], []).append(seen)
    for session, of_session in spans.items():
        assert [json.loads(seen.body)["n"] for seen in of_session] == list(range(int(session[1]), 40, 4))
        assert all(one.ended <= other.began for one, other in itertools.pairwise(of_session))
    overlapping = sum(
        one.began < other.ended and other.began < one.ended for one, other in itertools.combinations(backend.seen, 2)
    )
    assert overlapping > 0


@pytest.mark.parametrize("none", [None, ""])
def test_hooks_that_name_no_session_wait_for_none(path: Path, none: str | None) -> None:
    together = threading.Barrier(4)  # which is passed by all of them at once, or by nobody

    def decide(method: str, hook: Any) -> Reply:
        together.wait(PATIENCE)
        return echo(method, hook)

    write(path, *[record({"sessionId": none, "callId": none})] * 4)
    with Backend(decide) as backend:
        assert as_json(path, "--to", backend.url, "--concurrency", 4)["agreements"] == 4


def test_one_busy_session_holds_up_no_other(path: Path) -> None:
    many = [record({"sessionId": "busy", "n": n}, time=f"2026-01-31T02:41:00.{n:03}Z") for n in range(200)]
    write(path, *many, record({"sessionId": "other"}, time="2026-01-31T02:41:00.050Z"))
    with Backend(echo, pause=0.002) as backend:
        assert Run(path, "--to", backend.url, "--concurrency", "2").status == 0
    sessions = [hook["sessionId"] for hook in backend.hooks]
    assert sessions.index("other") < 100
    assert [hook["n"] for hook in backend.hooks if hook["sessionId"] == "busy"] == list(range(200))


def test_no_more_hooks_are_under_way_than_are_asked_for(path: Path) -> None:
    inside, most, lock = 0, 0, threading.Lock()

    def decide(method: str, hook: Any) -> Reply:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        threading.Event().wait(0.01)
        with lock:
            inside -= 1
        return echo(method, hook)

    write(path, *(record({"sessionId": f"s{n}"}) for n in range(40)))
    with Backend(decide) as backend:
        assert Run(path, "--to", backend.url, "--concurrency", "3").status == 0
    assert 1 <= most <= 3


def test_a_rate_is_not_exceeded(path: Path, same: Backend) -> None:
    write(path, *(record({"sessionId": f"s{n}"}) for n in range(11)))
    began = time.monotonic()
    Run(path, "--to", same.url, "--rate", "20/s")
    assert time.monotonic() - began >= 0.5
    assert len(same.seen) == 11


def test_as_recorded_hooks_are_as_far_apart_as_they_were(path: Path, same: Backend) -> None:
    times = ["2026-01-31T02:41:00.000Z", "2026-01-31T02:41:00.300Z", "2026-01-31T03:41:00.600+01:00"]
    write(path, *(record({"sessionId": time}, time=time) for time in times))
    Run(path, "--to", same.url, "--as-recorded")
    first, second, third = (seen.began for seen in same.seen)
    assert second - first >= 0.2
    assert third - second >= 0.2


def test_several_files_are_one_recording_in_the_order_of_time(tmp_path: Path, same: Backend) -> None:
    old, new = record({"n": 1}, time="2026-01-30T00:00:00.000Z"), record({"n": 2}, time="2026-01-31T00:00:00.000Z")
    write(tmp_path / "hooks.jsonl", new)
    write(tmp_path / "hooks.jsonl.1", old)
    assert Run(f"{tmp_path}/hooks.jsonl*", "--to", same.url).status == 0
    assert [hook["n"] for hook in same.hooks] == [1, 2]


def test_limit_takes_the_first(path: Path, same: Backend) -> None:
    write(path, *(record({"n": n}, time=f"2026-01-31T02:41:0{n}Z") for n in range(9)))
    report = as_json(path, "--to", same.url, "--limit", "4")
    assert [hook["n"] for hook in same.hooks] == [0, 1, 2, 3]
    assert (report["hooks"], report["played"], report["beyond_limit"]) == (4, 4, 5)


# --- which hooks ---

METHODS: Final = [
    "connect",
    "call",
    "OnCallEvent",
    "OnMessageEvent",
    "OnTransferEvent",
    "CallStatusEvent",
    "OnNewThing",
]


def test_what_may_have_side_effects_is_left_out_and_that_is_told(path: Path, same: Backend) -> None:
    write(path, *(record(method=method) for method in METHODS))
    run = Run(path, "--to", same.url)
    assert {seen.path.rpartition("/")[2] for seen in same.seen} == {"OnCallEvent", "OnMessageEvent", "OnTransferEvent"}
    assert re.search(r"^left out +4 +.*--all-methods.*connect 1", run.out, re.MULTILINE), run


def test_all_methods_are_played_where_that_is_asked_for(path: Path, same: Backend) -> None:
    write(path, *(record(method=method) for method in METHODS))
    assert as_json(path, "--to", same.url, "--all-methods")["left_out"] == {}
    assert len(same.seen) == len(METHODS)


@pytest.mark.parametrize(
    ("only", "app", "method", "expected"),
    [
        ([], "a", "OnCallEvent", True),
        ([], "a", "connect", None),
        (["a"], "a", "OnCallEvent", True),
        (["a"], "b", "OnCallEvent", False),
        (["a"], "a", "connect", None),
        (["a/*"], "a", "connect", None),
        (["a/connect"], "a", "connect", True),
        (["a/con*"], "a", "connect", True),
        (["tenant-*/OnCallEvent"], "tenant-7", "OnCallEvent", True),
        (["tenant-*/OnCallEvent"], "tenant-7", "OnMessageEvent", False),
        (["*/*StatusEvent"], "a", "CallStatusEvent", True),
        (["x", "a/connect"], "a", "connect", True),
        (["x", "a/connect"], "a", "OnCallEvent", False),
        (["a/b/OnCallEvent"], "a/b", "OnCallEvent", True),
    ],
)
def test_only_says_which_and_naming_a_method_is_asking_for_it(
    only: list[str], app: str, method: str, expected: bool | None
) -> None:
    assert HookFilter(only).matches(app, method) is expected


@pytest.mark.parametrize(
    ("only", "types", "method", "source", "expected"),
    [
        (["failed"], [], "OnCallEvent", "fallback", True),
        (["failed"], [], "OnCallEvent", "backend", False),
        (["failed"], [], "CallStatusEvent", "fallback", None),
        (["failed"], ["event"], "CallStatusEvent", "fallback", True),
        (["failed"], ["event"], "CallStatusEvent", "spool", False),
        (["failed"], ["event"], "OnCallEvent", "fallback", False),
        (["failed", "b"], ["event"], "CallStatusEvent", "fallback", False),
        (["failed", "a"], ["event"], "CallStatusEvent", "fallback", True),
        ([], ["event", "connect"], "connect", "backend", True),
        (["failed/*"], ["event"], "CallStatusEvent", "backend", False),
    ],
)
def test_what_failed_and_methods_of_a_type_are_asked_for_by_these_words(
    only: list[str], types: list[str], method: str, source: str, expected: bool | None
) -> None:
    assert HookFilter(only, types=[MethodType(name) for name in types]).matches("a", method, source) is expected


def test_events_that_a_backend_missed_are_delivered(path: Path, same: Backend) -> None:
    missed = record(method="CallStatusEvent", source="fallback", reason="unreachable")
    write(path, record(), record(method="CallStatusEvent"), record(source="fallback", reason="timeout"), missed)
    run = Run(path, "--to", same.url, "--only", "failed", "--methods", "event")
    assert run.status == 0
    assert "the backend has taken every hook" in run.out
    assert [(seen.path.rpartition("/")[2], seen.headers["X-Request-Id"]) for seen in same.seen] == [
        ("CallStatusEvent", missed["request_id"])
    ]


def test_an_event_that_a_backend_misses_again_ends_with_exit_status_1(path: Path) -> None:
    write(path, record(method="CallStatusEvent", source="fallback", reason="unreachable"))
    with Backend(lambda method, hook: (500, b"")) as backend:
        run = Run(path, "--to", backend.url, "--only", "failed", "--methods", "event")
    assert run.status == 1
    assert "has not taken every hook" in run.out


def test_a_method_from_a_file_cannot_lead_to_another_path(path: Path, same: Backend) -> None:
    write(path, record(method="../../admin?x=1#"))
    Run(path, "--to", same.url, "--all-methods")
    assert [seen.path for seen in same.seen] == ["/rest/my_api/..%2F..%2Fadmin%3Fx%3D1%23"]


def test_adversarial_a_request_id_from_a_file_is_no_header_of_its_own(path: Path, same: Backend) -> None:
    write(path, record(request_id="a\r\nX-Evil: 1"))
    Run(path, "--to", same.url)
    assert "X-Evil" not in same.seen[0].headers
    assert "X-Request-Id" not in same.seen[0].headers


# --- broken files ---


def test_a_broken_line_is_told_with_file_and_line_skipped_and_counted(path: Path, same: Backend) -> None:
    good = record()
    write(path, good, b'{"v":1', {**good, "v": 9}, b"", b"\xff\xfe", record(), {**good, "hook": {"x": 1}})
    with path.open("ab") as file:
        file.write(json.dumps(good).encode()[:99])  # being written just now
    run = Run(path, "--to", same.url)
    assert run.status == 0
    assert len(same.seen) == 2
    skipped = [line for line in run.err.splitlines() if "skipped" in line]
    assert [re.sub(r".*jsonl:(\d+): .*", r"\1", line) for line in skipped] == ["2", "3", "4", "5", "7", "8"]
    assert "version 9" in skipped[1]
    assert re.search(r"^broken lines +6 ", run.out, re.MULTILINE), run


def test_adversarial_a_line_without_end_is_one_broken_line(
    path: Path, same: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_module, "MAX_LINE", 10_000)
    write(path, record(), b"x" * 55_000, record())
    report = as_json(path, "--to", same.url)
    assert (report["played"], report["broken_lines"]) == (2, 1)


def test_adversarial_what_a_file_holds_cannot_steer_a_terminal(path: Path, same: Backend) -> None:
    write(path, record(app="\x1b[2Jx", request_id="\x1b]0;x\x07", **REFUSED), b'{"v":1,"\x1b[2J":1}')
    run = Run(path, "--to", same.url, "--only", "*")
    assert "\x1b" not in run.out + run.err
    assert "\x07" not in run.out + run.err


def test_many_broken_lines_are_told_shortly(path: Path, same: Backend) -> None:
    write(path, record(), *[b"x"] * 500)
    assert len(Run(path, "--to", same.url).err.splitlines()) == 21


line_changes = st.dictionaries(
    st.sampled_from([*record(), "x"]),
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.lists(st.integers(), max_size=2),
    max_size=3,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(line_changes | st.binary(max_size=60), max_size=8))
@example([b"\x28\xb5\x2f\xfd"])
def test_whatever_stands_in_a_file_a_line_is_a_hook_or_broken(path: Path, made: list[dict[str, Any] | bytes]) -> None:
    whole = [change.replace(b"\n", b"") if isinstance(change, bytes) else {**record(), **change} for change in made]
    write(path, *whole)
    if whole and isinstance(whole[0], bytes) and whole[0].startswith(tuple(_COMPRESSED)):
        with pytest.raises(UnreadableError, match="it is compressed"):
            Recording([str(path)], HookFilter(all_methods=True))
        return
    recording = Recording([str(path)], HookFilter(all_methods=True))
    try:
        played = list(recording.hooks())
        assert len(played) + recording.broken_count == len(made)
        assert msgspec.json.encode([one.record for one in played])
    finally:
        recording.close()


def test_a_file_that_is_cut_while_it_is_played_is_told(path: Path) -> None:
    write(path, record(), record())
    recording = Recording([str(path)], HookFilter())
    path.write_bytes(b"")
    with pytest.raises(UnreadableError, match="it has changed"):
        list(recording.hooks())
    recording.close()


def test_what_is_known_is_told_where_a_file_is_cut_while_it_is_played(path: Path) -> None:
    def decide(method: str, hook: Any) -> Reply:
        path.write_bytes(b"")
        return echo(method, hook)

    write(path, *(record({"sessionId": f"s{n}"}) for n in range(500)))
    with Backend(decide) as backend:
        run = Run(path, "--to", backend.url)
    assert run.status == 2
    assert "it has changed" in run.err
    assert "of 500 hooks" in run.out
    assert "Interrupted: " in run.out


def test_a_file_that_is_named_twice_or_turned_over_meanwhile_is_played_once(path: Path, same: Backend) -> None:
    write(path, record(), record())
    renamed = path.with_name("hooks.jsonl.1")
    os.link(path, renamed)
    assert as_json(path, path.parent / "." / path.name, renamed, "--to", same.url)["played"] == 2


@pytest.mark.parametrize("begins", [b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh9"])
def test_a_compressed_file_is_told_as_one(path: Path, same: Backend, begins: bytes) -> None:
    path.write_bytes(begins + b"\n" * 50)
    run = Run(path, "--to", same.url)
    assert (run.status, run.out, len(run.err.splitlines())) == (2, "", 1)
    assert "compressed" in run.err


def test_standard_input_is_refused_in_words(same: Backend) -> None:
    run = Run("-", "--to", same.url)
    assert (run.status, run.out) == (2, "")
    assert "standard input" in run.err


def test_a_file_whose_name_is_no_text_is_told_of_as_json_too(path: Path) -> None:
    odd = path.with_name("hooks-\udcff.jsonl")
    write(odd, record(), b"broken")
    with Backend(lambda method, hook: (500, b"")) as backend:
        (example,) = as_json(odd, "--to", backend.url)["examples"]
    assert example["where"].endswith("hooks-\\udcff.jsonl:1")


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe", "empty", "no such glob"])
def test_what_cannot_be_read_ends_with_exit_status_2(tmp_path: Path, same: Backend, kind: str) -> None:
    path = tmp_path / "hooks.jsonl"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "empty":
        path.touch()
    run = Run(f"{tmp_path}/nothing*" if kind == "no such glob" else path, "--to", same.url)
    assert (run.status, run.out) == (2, "")
    assert run.err.startswith("gateway: ")
    assert len(run.err.splitlines()) == 1


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--to", "ftp://127.0.0.1/x"],
        ["--to", "file:///etc/passwd"],
        ["--to", "127.0.0.1:80"],
        ["--to", "http://127.0.0.1:1/x?y=z"],
        ["--to", "http://127.0.0.1:1/x#y"],
        ["--to", "http://127.0.0.1:1", "--rate", "0"],
        ["--to", "http://127.0.0.1:1", "--rate", "fast"],
        ["--to", "http://127.0.0.1:1", "--rate", "nan"],
        ["--to", "http://127.0.0.1:1", "--rate", "5/s", "--as-recorded"],
        ["--to", "http://127.0.0.1:1", "--timeout", "0"],
        ["--to", "http://127.0.0.1:1", "--timeout", "inf"],
        ["--to", "http://127.0.0.1:1", "--concurrency", "0"],
        ["--to", "http://127.0.0.1:1", "--concurrency", "100000"],
        ["--to", "http://127.0.0.1:1", "--compare", "all"],
        ["--to", "http://127.0.0.1:1", "--limit", "0"],
    ],
)
def test_wrong_usage_is_told_with_exit_status_2(path: Path, args: list[str]) -> None:
    write(path, record())
    run = Run(path, *args)
    assert (run.status, run.out) == (2, "")


def test_where_all_is_left_out_it_is_said_how_to_have_it(path: Path, same: Backend) -> None:
    write(path, record(method="connect"))
    run = Run(path, "--to", same.url)
    assert run.status == 2
    assert "--all-methods" in run.err
    assert same.seen == []


# --- the report ---


def test_the_report_as_json_goes_to_a_file_and_the_words_to_the_terminal(path: Path, same: Backend) -> None:
    write(path, record(), record(**REFUSED))
    target = path.with_name("report.json")
    run = Run(path, "--to", same.url.replace("//", "//user:S3cr3t@"), "--json", target)
    report = json.loads(target.read_bytes())
    assert run.status == 1
    assert "reject became allow: 1 hook" in run.out
    assert report["to"] == same.url
    assert "S3cr3t" not in run.out
    assert (report["compared"], report["agreements"], report["disagreements"]) == (2, 1, {"reject became allow": 1})
    assert [example["where"] for example in report["examples"]] == [f"{path}:2"]
    assert same.seen[0].headers["Authorization"].startswith("Basic ")


def test_a_report_that_cannot_be_written_is_still_printed(path: Path, same: Backend) -> None:
    write(path, record())
    run = Run(path, "--to", same.url, "--json", path.parent)
    assert run.status == 2
    assert "agreed" in run.out


def test_ctrl_c_prints_what_is_known_so_far(path: Path) -> None:
    write(path, *(record({"sessionId": f"s{n}"}) for n in range(500)))
    with Backend(echo) as backend:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "replay", str(path), "--to", backend.url, "--rate", "20"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True,
        )  # fmt: skip
        try:
            assert wait_until(lambda: len(backend.seen) >= 3, PATIENCE)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 130
    assert err == ""
    assert re.match(r"played (\d+) of 500 hooks", out)
    assert "Interrupted: " in out


def test_on_a_terminal_there_is_a_progress_bar_on_standard_error(path: Path, same: Backend) -> None:
    write(path, *(record({"sessionId": f"s{n}"}) for n in range(30)))
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "replay", str(path), "--to", same.url],
            stdout=subprocess.PIPE, stderr=theirs, cwd=ROOT, text=True, env={**os.environ, "TERM": "xterm"},
        )  # fmt: skip
        out, _ = process.communicate(timeout=PATIENCE)
        shown = os.read(ours, 100_000).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    assert process.returncode == 0
    assert "30/30" in shown
    assert "30/30" not in out
    assert re.search(r"agreed +30", out)


def test_a_large_recording_is_played_in_bounded_memory(path: Path, same: Backend) -> None:
    # What waits is bounded by the window: the reader is never more than that ahead of the backend.
    count = Counter[str]()

    class Counting(Recording):
        def hooks(self) -> Iterator[Any]:
            for played in super().hooks():
                count["read"] += 1
                count["ahead"] = max(count["ahead"], count["read"] - len(same.seen))
                yield played

    write(path, *(record({"sessionId": f"s{n % 7}"}) for n in range(600)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.cli.commands.replay.Recording", Counting)
        assert Run(path, "--to", same.url, "--concurrency", "4").status == 0
    assert count["read"] == 600
    assert count["ahead"] <= 64 + 4 * 4 + 1
