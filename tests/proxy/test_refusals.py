"""Reading a hook's request from ASGI, with messages played by a script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope

from gateway.http.server.protocol import CLIENT_LEFT
from gateway.model.hooks import CATALOGUE
from gateway.model.verdicts import Reason, Ruling, Source, Verdict
from gateway.proxy.refusals import RequestRefused, problem, read_body, read_method, unknown_app_answer


def scope_of(path: bytes = b"/rest/my_api/OnCallEvent", method: str = "POST", *headers: tuple[bytes, bytes]) -> Scope:
    return {
        "type": "http",
        "method": method,
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": b"",
        "headers": list(headers),
    }


def part(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


def whole(*parts: bytes) -> list[Message]:
    return [*map(part, parts[:-1]), part(parts[-1], more=False)]


class Script:
    """Plays the messages in turn, then waits for ever; counts how often it was asked."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = list(messages)
        self.asked = 0

    async def __call__(self) -> Message:
        self.asked += 1
        if not self.messages:
            await asyncio.Event().wait()
        return self.messages.pop(0)


def assert_problem(ruling: Ruling, status: int) -> dict[str, Any]:
    """A refusal of bad input, as the contract has it."""
    assert (ruling.status, ruling.source) == (status, Source.GATEWAY)
    assert ruling.content_type == b"application/problem+json"
    assert ruling.proxy_status is not None
    told: dict[str, Any] = json.loads(ruling.body)
    assert told["status"] == status
    assert told["title"]
    assert told["detail"] == ruling.error
    return told


async def refused(receive: Receive, status: int) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        await read_body(receive)
    assert_problem(caught.value.ruling, status)
    assert caught.value.ruling.verdict is Verdict.ERROR
    assert caught.value.ruling.reason is Reason.BAD_REQUEST
    return caught.value


# --- the method ---


@pytest.mark.parametrize("method", CATALOGUE)
def test_every_method_of_the_catalogue_is_a_last_segment(method: str) -> None:
    assert read_method(scope_of(f"/rest/my_api/{method}".encode())) == method


@pytest.mark.parametrize(
    ("path", "method"),
    [
        (b"/connect", "connect"),
        (b"/a/b/c/d/connect", "connect"),
        (b"//connect", "connect"),
        (b"/../x/connect", "connect"),
        (b"/%2e%2e/connect", "connect"),
        (b"/a%00b/connect", "connect"),
        (b"/On%43allEvent", "OnCallEvent"),
        (b"/" + b"m" * 64, "m" * 64),
        (b"/New_Method2", "New_Method2"),
    ],
)
def test_the_prefix_is_any_and_the_last_segment_is_the_method(path: bytes, method: str) -> None:
    assert read_method(scope_of(path)) == method


def test_a_server_that_gives_no_raw_path_is_understood_too() -> None:
    scope = scope_of()
    del scope["raw_path"]
    assert read_method(scope) == "OnCallEvent"


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"",
        b"*",
        b"/connect/",
        b"/..",
        b"/connect/..",
        b"/%2e%2e",
        b"/a%2fconnect",
        b"/%252e",
        b"/On%2543allEvent",
        b"/connect%00",
        b"/connect%0d%0aX:1",
        b"/connect%0a",
        b"/connect;a=b",
        b"/connect.php",
        b"/con nect",
        b"/-connect",
        b"/1connect",
        b"/_connect",
        b"/c%C3%B6nnect",
        b"/c\xf6nnect",
        b"/connect%",
        b"/" + b"m" * 65,
    ],
)
def test_a_path_that_does_not_end_in_a_method_s_name_is_a_404(path: bytes) -> None:
    with pytest.raises(RequestRefused) as caught:
        read_method(scope_of(path))
    assert_problem(caught.value.ruling, 404)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "post"])
def test_whatever_is_not_a_post_is_a_405(method: str) -> None:
    with pytest.raises(RequestRefused) as caught:
        read_method(scope_of(method=method))
    assert method in assert_problem(caught.value.ruling, 405)["detail"]


# --- the body ---
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_a_body_is_the_same_however_it_is_cut(parts: list[bytes]) -> None:
    body = b"".join(parts)
    assert asyncio.run(read_body(Script(whole(*parts)))) == body


async def test_a_message_without_a_body_or_a_sequel_is_an_empty_body() -> None:
    assert await read_body(Script([{"type": "http.request"}])) == b""


# --- refusals in words ---
@given(st.text(max_size=300))
def test_an_unknown_app_is_told_in_bounded_words_whatever_its_key(app_key: str) -> None:
    ruling = unknown_app_answer(app_key)
    assert_problem(ruling, 403)
    assert (ruling.verdict, ruling.reason) == (Verdict.REJECT, Reason.UNKNOWN_APP)
    assert ruling.error.isprintable()
    assert len(ruling.error) < 80 * 10 + 60
    if len(app_key) <= 80:
        assert repr(app_key) in ruling.error


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 408, 413, 431, CLIENT_LEFT])
def test_every_refusal_of_the_contract_is_a_problem_document(status: int) -> None:
    assert assert_problem(problem(status, "said so"), status)["detail"] == "said so"
