"""The application that hooks meet: one endpoint behind every path, and nothing between it and the front door."""

from __future__ import annotations

from typing import Any, cast

import pytest
from starlette.types import Message, Receive, Scope, Send

from gateway.proxy.endpoint import HookEndpoint
from gateway.server.app import hook_app


class Endpoint:
    """Answers with the path, or fails where the test says so."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.fails:
            raise ZeroDivisionError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["raw_path"]})


async def sent_for(endpoint: Endpoint, path: str, sent: list[Message]) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": (),
        "root_path": "", "client": None, "server": None, "scheme": "http", "http_version": "1.1",
    }  # fmt: skip
    await hook_app(cast(HookEndpoint, endpoint))(scope, receive, send)


@pytest.mark.parametrize("path", ["/", "/rest/OnCallEvent", "//", "/a\nb", "/a\0b", "/" + "x" * 5000, "/{method}"])
async def test_every_path_leads_to_the_endpoint(path: str) -> None:
    sent: list[Message] = []
    await sent_for(Endpoint(), path, sent)
    assert sent[1]["body"] == path.encode()


async def test_a_failure_of_the_endpoint_is_left_to_the_front_door_which_ends_the_connection() -> None:
    """An error page made on the way would be an answer of nobody's, and no verdict."""
    sent: list[Message] = []
    with pytest.raises(ZeroDivisionError):
        await sent_for(Endpoint(fails=True), "/connect", sent)
    assert sent == []
