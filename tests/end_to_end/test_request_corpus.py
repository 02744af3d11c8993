"""The requests of public HTTP test suites, all at once, against a real gateway: refused or read, never hung."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from collections.abc import Iterator, Mapping
from http.client import parse_headers
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.support.gateways import RunningGateway, running_gateway

CORPUS: Final = Path(__file__).parent.parent.parent.parent / "shared" / "corpora" / "http_requests.jsonl"
ALL_WITHIN: Final = 60.0
"""Seconds for all of them together."""
CONFIG: Final = """\
server: {listen: '127.0.0.1:0', admin: '127.0.0.1:0', read_timeout: 2s, keepalive_timeout: 1s}
apps: {a: {static: allow}}
"""
FRAGMENT: Final = 408

STRICTER: Final = {
    # Conflicting lengths let two readers see two requests: RFC 9112, section 6.1, allows to refuse them.
    "uws-h1spec/Conflicting Transfer-Encoding and Content-Length in varying case": "may stand once",
    # The parser that these come from hands its bare CR and LF on; RFC 9112, section 2.2, allows to refuse them.
    "llhttp-request/invalid:Headers separated by LF": "control character",
    "llhttp-request/invalid:Empty headers separated by CR": "control character",
    # No target of a hook: CONNECT's host and port, the asterisk, and a fragment, which RFC 9112 knows in none.
    "llhttp-request/method:CONNECT request": "no path",
    "llhttp-request/method:CONNECT request with CAPS": "no path",
    "llhttp-request/method:CONNECT with body": "no path",
    "llhttp-request/uri:Underscore in hostname": "no path",
    "llhttp-request/method:PRI request HTTP2": "no path",
    "llhttp-request/uri:Fragment in URI": "fragment",
    "llhttp-request/transfer-encoding:POST with `chunked` as last transfer-encoding": "fragment",
    "llhttp-request/transfer-encoding:POST with `chunked` as last transfer-encoding (multiple headers)": "fragment",
    # Other protocols, and HTTP/0.9; a method with a hyphen, which no hook has.
    "llhttp-request/method:SOURCE request with ICE": "version",
    "llhttp-request/method:OPTIONS request with RTSP": "version",
    "llhttp-request/method:ANNOUNCE request with RTSP": "version",
    "llhttp-request/sample:No HTTP version": "METHOD TARGET VERSION",
    "llhttp-request/method:M-SEARCH request": "METHOD TARGET VERSION",
    # Hosts that are none ("0.0.0.0=5000"), or with credentials before them: RFC 9110, section 4.2.4.
    "llhttp-request/sample:curl GET": "not a host",
    "llhttp-request/sample:Firefox GET": "not a host",
    "llhttp-request/uri:`host:port` and basic auth": "not a host",
}
"""What a suite accepts and we refuse, what we say to it, and why."""

ORDINARY: Final = {f"xprespace-{byte}" for byte in ("09", "20", "a0", "ff")}
"""Smugglers' requests whose odd field is an ordinary one to every reader: the value of a field X."""

pytestmark = pytest.mark.skipif(not CORPUS.exists(), reason="the shared corpora are absent")


class Case(NamedTuple):
    id: str
    expect: str
    data: bytes


class Answer(NamedTuple):
    status: int
    detail: str
    closes: bool


def corpus() -> list[Case]:
    rows = map(json.loads, CORPUS.read_text("utf-8").splitlines())
    return [Case(f"{row['suite']}/{row['id']}", row["expect"], base64.b64decode(row["b64"])) for row in rows]


def made_whole(data: bytes) -> bytes:
    """The suites' accepted requests often end early, and name no host: as a client would send them."""
    line, end, rest = data.removeprefix(b"\r\n").partition(b"\r\n")
    head, _, body = rest.partition(b"\r\n\r\n")
    if not re.search(rb"(?im)^host:", head):
        authority = re.match(rb"[A-Z]+ https?://([^/? ]+)", line)
        rest = b"Host: %b\r\n%b" % (authority[1] if authority else b"gw", rest)
    if b"\r\n\r\n" not in line + end + rest or re.search(rb"\r\n0+\r\n\Z", body):
        rest += b"\r\n"
    return line + end + rest


async def exchange(gateway: RunningGateway, data: bytes) -> bytes:
    """All that comes back until the gateway ends the connection; the client does not."""
    host, port = gateway.hooks.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        return await reader.read()
    finally:
        writer.close()


async def exchange_all(gateway: RunningGateway, requests: list[bytes]) -> list[bytes]:
    async with asyncio.timeout(ALL_WITHIN):
        return await asyncio.gather(*(exchange(gateway, data) for data in requests))


def answers_in(data: bytes) -> list[Answer]:
    """Every answer, each of which must be well-formed problem details."""
    stream, answers = io.BytesIO(data), []
    while line := stream.readline():
        if line == b"HTTP/1.1 100 Continue\r\n":
            assert stream.readline() == b"\r\n"
            continue
        match = re.fullmatch(rb"HTTP/1\.1 (\d{3}) [A-Z][A-Za-z ]+\r\n", line)
        assert match, line
        headers = parse_headers(stream)
        status, detail = int(match[1]), ""
        if headers["content-length"] != "0":
            body = stream.read(int(headers["content-length"]))
            assert len(body) in (0, int(headers["content-length"]))  # none to a HEAD
            assert headers["content-type"] == "application/problem+json"
            detail = json.loads(body)["detail"] if body else ""
        answers.append(Answer(status, detail, headers["connection"] == "close"))
    return answers


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(CONFIG, tmp_path_factory.mktemp("corpus")) as running:
        yield running


@pytest.fixture(scope="module")
def answered(gateway: RunningGateway) -> Mapping[Case, list[Answer]]:
    """What the gateway said to each case as it stands; none may hang, or be reset."""
    cases = corpus()
    got = asyncio.run(exchange_all(gateway, [case.data for case in cases]))
    return {case: answers_in(data) for case, data in zip(cases, got, strict=True)}


def test_every_request_is_answered_with_a_refusal_of_the_contract(answered: Mapping[Case, list[Answer]]) -> None:
    assert len(answered) == 315
    wrong = {
        case.id: answers
        for case, answers in answered.items()
        if not answers or {answer.status for answer in answers} - {400, 404, 405, FRAGMENT, 413, 431}
    }
    assert wrong == {}


def test_what_must_be_rejected_is_and_its_connection_closed(answered: Mapping[Case, list[Answer]]) -> None:
    rejected = {case: answers for case, answers in answered.items() if case.expect == "reject"}
    assert len(rejected) == 52
    wrong = {case.id: answers for case, answers in rejected.items() if len(answers) != 1 or not answers[0].closes}
    assert wrong == {}


def test_no_smuggler_s_request_is_read_but_those_that_smuggle_nothing(answered: Mapping[Case, list[Answer]]) -> None:
    read = {
        case.id.partition("/")[2]
        for case, answers in answered.items()
        if case.id.startswith("smuggler-default/") and answers[0].status not in (400, FRAGMENT)
    }
    assert read == ORDINARY


def test_what_must_be_accepted_is_not_refused_for_its_http_unless_we_are_stricter(gateway: RunningGateway) -> None:
    cases = [case for case in corpus() if case.expect == "accept"]
    assert len(cases) == 91
    got = asyncio.run(exchange_all(gateway, [made_whole(case.data) for case in cases]))
    refused = {}
    for case, data in zip(cases, got, strict=True):
        first = answers_in(data)[0]
        is_of_the_hook = first.status in (404, 405) or re.search(r"JSON|appKey", first.detail)
        if not is_of_the_hook and first.status != FRAGMENT:
            refused[case.id] = first.detail
    assert refused.keys() == STRICTER.keys()
    assert {name for name, detail in refused.items() if STRICTER[name] not in detail} == set()


def test_none_of_it_is_an_error_of_the_gateway_s(
    gateway: RunningGateway, answered: Mapping[Case, list[Answer]]
) -> None:
    assert gateway.hook(body=b'{"appKey":"a"}').status_code == 200
    lines = gateway.lines()
    assert [line for line in lines if line.get("level") in ("error", "critical")] == []
    assert gateway.metric("gateway_hooks_total", reason="internal") == 0
    said = sum(len(answers) for answers in answered.values())
    assert gateway.metric("gateway_hooks_total", reason="bad_request") >= said
