"""Input that is no hook gets a clear answer and never reaches a backend: CONTRACT §3, the last points."""

from __future__ import annotations

import base64
import codecs
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import pytest

from tests.support.faulty import FaultyBackend, Step, Turn, added_case, reply, right_answer
from tests.support.gateways import Answer, RunningGateway, read_answer, running_gateway

CORPORA: Final = Path(__file__).parent.parent.parent.parent / "shared" / "corpora"
MAX_BODY: Final = 2048
"""Bytes, of the gateway that is strict."""
HOOK: Final = b'{"appKey":"ok"}'
METHOD_NAMES: Final = "GET PUT DELETE PATCH OPTIONS HEAD TRACE".split()


def configuration(backend: FaultyBackend, **server: Any) -> str:
    return json.dumps(
        {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", **server},
            "defaults": {"dedupe": "off"},
            "upstreams": {"u": {"url": backend.url_of("ok")}, "corpus": {"url": backend.url_of("corpus")}},
            "apps": {"ok": {"upstream": "u", "timeout": "5s"}, "corpus": {"upstream": "corpus", "timeout": "5s"}},
        }
    )


def answer_as_told(turn: Turn) -> Iterable[Step]:
    """A backend whose answer's body stands in the hook."""
    return [reply(base64.b64decode(json.loads(turn.request.body)["answer"]))]


@pytest.fixture(scope="module")
def backend() -> Iterator[FaultyBackend]:
    with added_case("corpus", "Answers as the hook says.", answer_as_told), FaultyBackend() as running:
        yield running
    assert running.problems == []


@pytest.fixture(scope="module")
def gateway(backend: FaultyBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(configuration(backend, max_body="2MiB"), tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture(scope="module")
def strict(backend: FaultyBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    config = configuration(backend, max_body=f"{MAX_BODY}B", read_timeout="1s")
    with running_gateway(config, tmp_path_factory.mktemp("strict")) as running:
        yield running


def request(body: bytes, *lines: bytes, path: bytes = b"/rest/OnCallEvent", method: bytes = b"POST") -> bytes:
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join((b"%b %b HTTP/1.1" % (method, path), b"Host: gw", length, *lines, b"", body))


def hooks_counted(gateway: RunningGateway) -> Counter[tuple[str, ...]]:
    """The hooks so far by app, verdict, source and reason."""
    found: Counter[tuple[str, ...]] = Counter()
    for line in gateway.get("/metrics").text.splitlines():
        if line.startswith("gateway_hooks_total{"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            found[*(labels[name] for name in ("app", "verdict", "source", "reason"))] += int(float(line.split()[-1]))
    return found


def assert_refused(
    gateway: RunningGateway,
    backend: FaultyBackend,
    raw: bytes,
    status: int,
    reason: str = "bad_request",
    method: str = "POST",
) -> Answer:
    """The request is refused, nothing reaches the backend, and log and metric say so, once."""
    reached = len(backend.requests)
    counted = hooks_counted(gateway)
    answer = gateway.send(raw, to_head=method == "HEAD")
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    line = gateway.access_line(answer.headers["x-request-id"])
    verdict = "reject" if status == 403 else "error"
    assert [line[key] for key in ("app", "verdict", "source", "reason", "status", "upstream", "attempts")] == [
        "_unknown", verdict, "gateway", reason, status, None, 0,
    ]  # fmt: skip
    assert len(backend.requests) == reached
    assert hooks_counted(gateway) - counted == Counter({("_unknown", verdict, "gateway", reason): 1})
    return answer


# --- the body ---

DEEP: Final = b"[" * 100_000 + b"]" * 100_000
BAD_BODIES: Final[dict[str, tuple[bytes, str]]] = {
    "empty": (b"", "empty"),
    "white space": (b" \r\n\t", "empty"),
    "null": (b"null", "not an object"),
    "true": (b"true", "not an object"),
    "number": (b"1", "not an object"),
    "string": (b'"appKey"', "not an object"),
    "list": (b"[]", "not an object"),
    "list of a hook": (b"[" + HOOK + b"]", "not an object"),
    "no appKey": (b"{}", "no appKey"),
    "appKey in another case": (b'{"appkey":"ok","AppKey":"ok"}', "no appKey"),
    "appKey below the top alone": (b'{"a":{"appKey":"ok"}}', "no appKey"),
    "appKey null": (b'{"appKey":null}', "not a string"),
    "appKey a number": (b'{"appKey":1}', "not a string"),
    "appKey true": (b'{"appKey":true}', "not a string"),
    "appKey an object": (b'{"appKey":{"appKey":"ok"}}', "not a string"),
    "appKey a list": (b'{"appKey":["ok"]}', "not a string"),
    "appKey empty": (b'{"appKey":""}', "empty"),
    "no JSON": (b"appKey=ok&caller=1", "not valid JSON"),
    "XML": (b"<hook><appKey>ok</appKey></hook>", "not valid JSON"),
    "cut short": (HOOK[:-1], "not valid JSON"),
    "cut in a string": (HOOK[:-3], "not valid JSON"),
    "garbage behind": (HOOK + b"x", "not valid JSON"),
    "a second object": (HOOK + HOOK, "not valid JSON"),
    "a second object on its line": (HOOK + b"\n" + HOOK, "not valid JSON"),
    "NUL behind": (HOOK + b"\0", "not valid JSON"),
    "NUL before": (b"\0" + HOOK, "not valid JSON"),
    "single quotes": (b"{'appKey':'ok'}", "not valid JSON"),
    "a trailing comma": (b'{"appKey":"ok",}', "not valid JSON"),
    "a comment": (HOOK + b"// ok", "not valid JSON"),
    "bare key": (b'{appKey:"ok"}', "not valid JSON"),
    "NaN": (b'{"appKey":"ok","n":NaN}', "not valid JSON"),
    "Infinity": (b'{"appKey":"ok","n":-Infinity}', "not valid JSON"),
    "leading zero": (b'{"appKey":"ok","n":01}', "not valid JSON"),
    "bare line end in a string": (b'{"appKey":"ok","sdp":"v=0\r\n"}', "not valid JSON"),
    "bad escape": (b'{"appKey":"ok","a":"\\x41"}', "not valid JSON"),
    "Latin-1": (b'{"appKey":"ok","caller":"J\xfcrgen"}', "not UTF-8"),
    "Latin-1 in a field's name": (b'{"appKey":"ok","J\xfcrgen":1}', "not UTF-8"),
    "overlong": (b'{"appKey":"ok","a":"\xc0\xaf"}', "not UTF-8"),
    "surrogate bytes": (b'{"appKey":"ok","a":"\xed\xa0\x80"}', "not UTF-8"),
    "byte-order mark": (codecs.BOM_UTF8 + HOOK, "byte-order mark"),
    "UTF-16": (HOOK.decode().encode("utf-16"), "not UTF-8"),
    "UTF-16LE without a mark": (HOOK.decode().encode("utf-16-le"), "not valid JSON"),
    "UTF-16BE without a mark": (HOOK.decode().encode("utf-16-be"), "not valid JSON"),
    "UTF-32": (HOOK.decode().encode("utf-32-le"), "not valid JSON"),
    "nested 100,000 deep": (b'{"appKey":"ok","a":' + DEEP + b"}", "nested too deeply"),
    "nested 100,000 deep before appKey": (b'{"a":' + DEEP + b',"appKey":"ok"}', "nested too deeply"),
    "nested 100,000 deep with an escape": (b'{"appKey":"ok","\\u0061":' + DEEP + b"}", "nested too deeply"),
    "opened 100,000 times": (b'{"a":' * 100_000, ""),
    "gzip, unsaid": (gzip.compress(HOOK), "not"),
    "noise": (bytes(range(256)), "not UTF-8"),
}


@pytest.mark.parametrize(("body", "detail"), BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_body_that_is_no_hook_is_400_with_the_reason(
    gateway: RunningGateway, backend: FaultyBackend, body: bytes, detail: str
) -> None:
    assert detail in assert_refused(gateway, backend, request(body), 400).detail


DUPLICATES: Final = {
    "plain": b'{"appKey":"ok","appKey":"blocked"}',
    "the same value": b'{"appKey":"ok","appKey":"ok"}',
    "far apart": b'{"appKey":"ok","sdp":"' + b"x" * 5000 + b'","appKey":"blocked"}',
    "three": b'{"appKey":"ok","appKey":"ok","appKey":"ok"}',
    "with white space": b'{"appKey" : "ok" ,\n "appKey"\t:\r\n"blocked"}',
    "the first escaped": b'{"\\u0061ppKey":"ok","appKey":"blocked"}',
    "the second escaped": b'{"appKey":"ok","appK\\u0065y":"blocked"}',
    "both escaped": b'{"\\u0061ppKey":"ok","app\\u004bey":"blocked"}',
    "escaped in upper case": b'{"appKey":"ok","app\\u004Bey":"blocked"}',
    "all escaped": b'{"appKey":"ok","\\u0061\\u0070\\u0070\\u004b\\u0065\\u0079":"blocked"}',
    "the second no string": b'{"appKey":"ok","appKey":null}',
    "the first no string": b'{"appKey":1,"appKey":"ok"}',
    "an escaped null behind": b'{"appKey":"ok","\\u0061ppKey":null}',
    "beside a nested one": b'{"a":{"appKey":"x"},"appKey":"ok","b":[{"appKey":"y"}],"appKey":"blocked"}',
}


@pytest.mark.parametrize("body", DUPLICATES.values(), ids=DUPLICATES)
def test_a_second_appkey_is_refused_however_it_is_spelt(
    gateway: RunningGateway, backend: FaultyBackend, body: bytes
) -> None:
    detail = assert_refused(gateway, backend, request(body), 400).detail
    assert "appKey" in detail


GOOD_BODIES: Final = {
    "an escaped appKey": b'{"\\u0061ppKey":"ok"}',
    "an escaped value": b'{"appKey":"\\u006f\\u006B"}',
    "a nested appKey": b'{"appKey":"ok","a":{"appKey":"blocked"},"b":[{"appKey":"blocked"}]}',
    "a nested appKey first": b'{"a":{"appKey":"blocked"},"appKey":"ok"}',
    "a nested appKey with an escape": b'{"a":{"appKey":"blocked"},"appKey":"ok","\\u0062":1}',
    "the name as a value": b'{"a":"appKey","appKey":"ok","b":"\\"appKey\\":"}',
    "the name within a name": b'{"xappKey":"blocked","appKeyx":"blocked","appKey":"ok"}',
    "the name in another case": b'{"appkey":"blocked","APPKEY":"blocked","appKey":"ok"}',
    "another field twice": b'{"appKey":"ok","a":1,"a":2}',
    "a 5,000-digit number": b'{"appKey":"ok","n":' + b"9" * 5000 + b"}",
    "a 5,000-digit number and an escape": b'{"appKey":"ok","\\u0061":-' + b"9" * 5000 + b".5e-9}",
    "known fields of other types": b'{"appKey":"ok","nodeId":1,"callId":{"a":[]},"caller":null,"callee":true}',
    "nested 100 deep": b'{"appKey":"ok","a":' + b"[" * 100 + b"]" * 100 + b"}",
    "NUL, escaped": b'{"appKey":"ok","a":"\\u0000"}',
    "1 MB": b'{"appKey":"ok","a":"' + b"x" * 1_000_000 + b'"}',
}


@pytest.mark.parametrize("body", GOOD_BODIES.values(), ids=GOOD_BODIES)
def test_what_only_looks_odd_is_a_hook(gateway: RunningGateway, backend: FaultyBackend, body: bytes) -> None:
    answer = gateway.send(request(body))
    assert (answer.status, answer.body) == (200, right_answer(body))
    assert backend.requests[-1].body == body


@pytest.mark.parametrize(
    "app_key",
    ["x" * 1_000_000, "a\r\nb", 'say "ok"', "ok\0", "\x1b[31mok", "' OR 1=1 --", "{app}", "%s%n", "\u202eko", "ок"],
    ids=["1 MB", "CR LF", "quotes", "NUL", "terminal", "SQL", "braces", "format", "right to left", "Cyrillic"],
)
def test_an_odd_appkey_is_an_unknown_app_and_one_bounded_line_of_the_log(
    gateway: RunningGateway, backend: FaultyBackend, app_key: str
) -> None:
    raw = request(json.dumps({"appKey": app_key}).encode())
    answer = assert_refused(gateway, backend, raw, 403, "unknown_app")
    assert len(answer.body) < 2000
    assert "no app" in answer.detail
    request_id = answer.headers["x-request-id"].encode()
    (line,) = (line for line in gateway.log.read_bytes().split(b"\n") if request_id in line)
    assert len(line) < 3000


def test_a_lone_surrogate_as_an_escape_is_no_defect_of_the_gateway(gateway: RunningGateway) -> None:
    for body in (b'{"appKey":"\\ud800"}', b'{"appKey":"ok","caller":"\\ud800"}', b'{"appKey":"ok","\\udc00":1}'):
        answer = gateway.send(request(body))
        assert answer.status in (200, 400, 403)
        assert gateway.access_line(answer.headers["x-request-id"])["reason"] != "internal"


def test_a_compressed_body_is_refused_with_the_reason(gateway: RunningGateway, backend: FaultyBackend) -> None:
    raw = request(gzip.compress(HOOK), b"Content-Encoding: gzip")
    assert "compressed" in assert_refused(gateway, backend, raw, 400).detail


def test_a_compressed_body_is_refused_though_it_would_read_as_a_hook(
    gateway: RunningGateway, backend: FaultyBackend
) -> None:
    assert_refused(gateway, backend, request(HOOK, b"Content-Encoding: gzip"), 400)


# --- sizes and times ---


def padded(size: int) -> bytes:
    return HOOK[:-1] + b',"p":"' + b"x" * (size - len(HOOK) - 7) + b'"}'


def chunked(body: bytes, size: int = 100) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    coded = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    return b"POST /rest/OnCallEvent HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n" + coded


@pytest.mark.parametrize("framed", [request, chunked])
def test_a_body_of_exactly_the_limit_is_accepted(strict: RunningGateway, framed: Any) -> None:
    body = padded(MAX_BODY)
    assert len(body) == MAX_BODY
    answer = strict.send(framed(body))
    assert (answer.status, answer.body) == (200, right_answer(body))


@pytest.mark.parametrize("framed", [request, chunked])
@pytest.mark.parametrize("size", [MAX_BODY + 1, 7 * MAX_BODY, 100 * MAX_BODY])
def test_a_body_over_the_limit_is_413_however_it_is_framed(
    strict: RunningGateway, backend: FaultyBackend, framed: Any, size: int
) -> None:
    answer = assert_refused(strict, backend, framed(padded(size)), 413)
    assert answer.headers["connection"] == "close"
    assert str(MAX_BODY) in answer.detail


def test_a_body_that_is_announced_too_large_is_413_before_it_comes(
    strict: RunningGateway, backend: FaultyBackend
) -> None:
    head = b"POST /rest/OnCallEvent HTTP/1.1\r\nHost: gw\r\nContent-Length: 10000000000\r\n\r\n"
    assert_refused(strict, backend, head, 413)


def test_a_body_that_does_not_arrive_in_time_is_408_and_closes(strict: RunningGateway, backend: FaultyBackend) -> None:
    answer = assert_refused(strict, backend, request(HOOK)[:-5], 408)
    assert answer.headers["connection"] == "close"
    assert "1 s" in answer.detail


def test_a_client_that_sends_a_byte_now_and_then_is_408_all_the_same(
    strict: RunningGateway, backend: FaultyBackend
) -> None:
    reached = len(backend.requests)
    with strict.connect() as sock:
        sock.sendall(request(padded(1000))[:-900])
        sock.settimeout(0.1)
        for _ in range(100):
            sock.sendall(b"x")
            try:
                first = sock.recv(12)
            except TimeoutError:
                continue
            break
        else:
            pytest.fail("no answer to a body that came for 10 s")
    assert first == b"HTTP/1.1 408"
    assert len(backend.requests) == reached


def test_the_next_hook_after_a_bad_one_on_the_same_connection_is_fine(gateway: RunningGateway) -> None:
    with gateway.connect() as sock, sock.makefile("rb") as stream:
        for body in (b"{}", HOOK, b'{"appKey":"ok"', b'{"appKey":"nobody"}', HOOK):
            sock.sendall(request(body))
            answer = read_answer(stream)
            assert answer.status == {HOOK: 200, b'{"appKey":"nobody"}': 403}.get(body, 400)


# --- methods and paths ---


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_another_http_method_than_post_is_405_and_told_what_is_allowed(
    gateway: RunningGateway, backend: FaultyBackend, method: str
) -> None:
    reached = len(backend.requests)
    answer = gateway.send(
        request(b"" if method in ("GET", "HEAD") else HOOK, method=method.encode()), to_head=method == "HEAD"
    )
    assert answer.status == 405
    assert answer.headers["allow"] == "POST"
    assert len(backend.requests) == reached
    assert answer.body == b"" if method == "HEAD" else "POST" in answer.detail
    assert gateway.access_line(answer.headers["x-request-id"])["verdict"] == "error"


@pytest.mark.parametrize(
    "path",
    [
        "/", "/rest/", "/rest/OnCallEvent/", "/..", "/rest/..", "/rest/.", "/%2e%2e", "/rest/%2e%2e",
        "/rest%2fOnCallEvent", "/rest/a%2fOnCallEvent", "/OnCallEvent%00", "/%00OnCallEvent", "/OnCallEvent%0d%0aX:1",
        "/OnCallEvent;v=1", "/OnCallEvent%3fa=b", "/OnCallEvent%20", "/On-Call", "/On.Call", "/1connect", "/_connect",
        "/%252e%252e", "/OnCall%", "/OnCall%zz", "/%c3%a9v%c3%a9nement", "//", "/rest//", "/" + "x" * 65, "/*",
        "/index.php", "/rest/?OnCallEvent",
    ],
)  # fmt: skip
def test_a_path_whose_last_segment_is_no_method_is_404(
    gateway: RunningGateway, backend: FaultyBackend, path: str
) -> None:
    answer = assert_refused(gateway, backend, request(HOOK, path=path.encode()), 404)
    assert "method" in answer.detail


@pytest.mark.parametrize(
    "path", ["/metrics", "/-/healthy", "/-/ready", "/-/reload", "/-/drain", "/api/status", "/api/config", "/"]
)
def test_nothing_of_the_admin_port_is_on_the_hook_port(
    gateway: RunningGateway, backend: FaultyBackend, path: str
) -> None:
    reloads = gateway.metric("gateway_config_reloads_total")
    for method in ("GET", "POST"):
        answer = gateway.send(request(b"", path=path.encode(), method=method.encode()), to_head=method == "HEAD")
        assert answer.status in ((405,) if method == "GET" else (400, 404))
        assert answer.headers["content-type"] == "application/problem+json"
    assert gateway.metric("gateway_config_reloads_total") == reloads


# --- HTTP itself ---

NOT_HTTP: Final = {
    "noise": b"\x00\x01\x02\x03\r\n\r\n",
    "a TLS hello": bytes.fromhex("160301003a010000360303") + bytes(51),
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no version": b"POST /rest/OnCallEvent\r\n\r\n",
    "both lengths": request(HOOK, b"Transfer-Encoding: chunked"),
    "two lengths": request(HOOK, b"Content-Length: 3"),
    "a list of lengths": request(HOOK).replace(b": 15", b": 15, 15"),
    "a signed length": request(HOOK).replace(b": 15", b": +15"),
    "a hex length": request(HOOK).replace(b": 15", b": 0xf"),
    "white space before the colon": request(HOOK, b"X-Odd : 1"),
    "a line without a colon": request(HOOK, b"X-Odd"),
    "NUL in a value": request(HOOK, b"X-Odd: a\0b"),
    "a bad chunk size": chunked(HOOK).replace(b"\r\nf\r\n", b"\r\nxyz\r\n"),
    "a coding that is not chunked": chunked(HOOK).replace(b": chunked", b": chunkedx"),
}


@pytest.mark.parametrize("raw", NOT_HTTP.values(), ids=NOT_HTTP)
def test_what_is_not_http_or_ambiguous_is_a_400_that_says_so_and_closes(
    gateway: RunningGateway, backend: FaultyBackend, raw: bytes
) -> None:
    reached = len(backend.requests)
    answer = gateway.send(raw)
    assert answer.status == 400
    assert answer.headers["connection"] == "close"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.detail
    assert len(backend.requests) == reached


def test_a_header_line_of_100_kb_is_431(gateway: RunningGateway, backend: FaultyBackend) -> None:
    assert_refused(gateway, backend, request(HOOK, b"X-Filler: " + b"x" * 100_000), 431)


def test_a_hook_with_garbage_behind_it_gets_its_own_answer_first(gateway: RunningGateway) -> None:
    assert gateway.send(request(HOOK) + b"\x00garbage\r\n\r\n")[::2] == (200, right_answer(HOOK))


# --- corpora ---


class Document(NamedTuple):
    name: str
    expect: str
    text: bytes

    @property
    def is_object(self) -> bool:
        return self.text.lstrip().startswith(b"{")


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    path = CORPORA / "json.jsonl"
    if not path.exists():
        pytest.skip(f"the shared corpora are not there ({path.name})")
    rows = map(json.loads, path.read_text().splitlines())
    return [Document(row["id"], row["expect"], base64.b64decode(row["b64"])) for row in rows]


@pytest.fixture(scope="module")
def naughty_strings() -> list[str]:
    path = CORPORA / "naughty_strings.json"
    if not path.exists():
        pytest.skip(f"the shared corpora are not there ({path.name})")
    strings: list[str] = json.loads(path.read_text("utf-8"))
    return strings


def statuses(gateway: RunningGateway, bodies: Iterable[tuple[str, bytes]]) -> dict[str, tuple[int, bytes]]:
    found = {}
    for name, body in bodies:
        answer = gateway.hook(body=body)
        found[name] = answer.status_code, answer.content
    return found


def test_every_document_that_json_parsers_must_reject_is_refused_as_a_hook(
    gateway: RunningGateway, backend: FaultyBackend, documents: list[Document]
) -> None:
    reached = len(backend.requests)
    got = statuses(gateway, ((it.name, it.text) for it in documents if it.expect == "reject"))
    assert {name: status for name, (status, _) in got.items() if status != 400} == {}
    assert len(backend.requests) == reached
    assert len(got) > 100


def test_every_document_that_json_parsers_must_reject_is_refused_within_a_hook(
    gateway: RunningGateway, backend: FaultyBackend, documents: list[Document]
) -> None:
    reached = len(backend.requests)
    rejected = [it for it in documents if it.expect == "reject" and not it.name.startswith("n_structure")]
    got = statuses(gateway, ((it.name, b'{"appKey":"ok","a":' + it.text + b"}") for it in rejected))
    assert {name: status for name, (status, _) in got.items() if status != 400} == {}
    assert len(backend.requests) == reached


def test_every_object_that_json_parsers_must_accept_is_a_hook_once_it_has_an_appkey(
    gateway: RunningGateway, documents: list[Document]
) -> None:
    hooks = {}
    for it in documents:
        if it.expect == "accept":
            hooks[it.name] = b'{"appKey":"ok","a":' + it.text + b"}"
            if it.is_object:
                inner = it.text.lstrip()[1:]
                hooks[it.name + " itself"] = b'{"appKey":"ok"' + (b"" if inner.strip() == b"}" else b",") + inner
    got = statuses(gateway, hooks.items())
    assert got == {name: (200, right_answer(body)) for name, body in hooks.items()}


def test_every_document_as_a_backends_answer_is_allowed_exactly_if_it_is_a_json_object(
    gateway: RunningGateway, documents: list[Document]
) -> None:
    known = [it for it in documents if it.expect != "any"]
    told = ((it.name, json.dumps({"appKey": "corpus", "answer": base64.b64encode(it.text).decode()})) for it in known)
    got = statuses(gateway, ((name, body.encode()) for name, body in told))
    allowed = {it.name: (200, it.text) for it in known if it.expect == "accept" and it.is_object}
    assert got == {it.name: allowed.get(it.name, (403, b"")) for it in known}
    assert len(allowed) > 10


def test_every_naughty_string_goes_through_in_every_field(
    gateway: RunningGateway, backend: FaultyBackend, naughty_strings: list[str]
) -> None:
    fields = ("nodeId", "sessionId", "callId", "caller", "callee", "status", "sdp")
    reached = len(backend.requests)
    bodies = []
    for number, text in enumerate(naughty_strings):
        hook = {"appKey": "ok", **dict.fromkeys(fields, text), f"-{text}": [text]}
        bodies.append(json.dumps(hook, ensure_ascii=number % 2 == 0).encode())
        answer = gateway.hook(body=bodies[-1], headers={"X-Request-Id": f"naughty-{number}"})
        assert (answer.status_code, answer.content) == (200, right_answer(bodies[-1]))
    assert [request.body for request in backend.requests[reached:]] == bodies
    gateway.access_line(f"naughty-{len(bodies) - 1}")
    assert sum(line["request_id"].startswith("naughty-") for line in gateway.access_lines()) == len(bodies)


def test_every_naughty_string_is_an_unknown_app_or_an_empty_appkey(
    gateway: RunningGateway, backend: FaultyBackend, naughty_strings: list[str]
) -> None:
    reached = len(backend.requests)
    got = statuses(gateway, ((text, json.dumps({"appKey": text}).encode()) for text in naughty_strings))
    assert {text: status for text, (status, _) in got.items() if status != (403 if text else 400)} == {}
    assert len(backend.requests) == reached


def test_every_naughty_string_as_a_path_is_404_or_a_plain_method(
    gateway: RunningGateway, backend: FaultyBackend, naughty_strings: list[str]
) -> None:
    reached = len(backend.requests)
    for text in set(naughty_strings) - {".", ".."}:  # these two the client itself would resolve
        segment = quote(text.encode("utf-8", "surrogatepass"), safe="")
        assert gateway.hook(segment, body=HOOK).status_code in (200, 404)
    for seen in backend.requests[reached:]:
        method = seen.path.rpartition("/")[2]
        assert method in naughty_strings
        assert method.isidentifier()
    assert gateway.hook(body=HOOK).status_code == 200


def test_nothing_of_all_this_was_a_defect_and_every_line_of_the_log_is_json(
    gateway: RunningGateway, strict: RunningGateway
) -> None:
    for running in (gateway, strict):
        assert [line for line in running.lines() if "exception" in line or line.get("reason") == "internal"] == []
        assert running.metric("gateway_hooks_total", reason="internal") == 0
