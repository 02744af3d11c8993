"""The spool on the admin port: the real spool behind it, the real guard before it."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from gateway.admin import spool_api
from gateway.admin.endpoints import AdminState
from gateway.admin.lifecycle import Lifecycle
from gateway.admin.reload import Reloader
from gateway.config import Loaded, loads
from gateway.recording.format import decode_record
from gateway.server.app import admin_app
from gateway.store.backlog_table import BacklogTable, create_table
from gateway.store.client import NOT_CONNECTED, StoreClient
from gateway.store.messages import Settle
from gateway.store.requests import StoreConnection
from gateway.telemetry.metrics import Metrics
from tests.support.direct_store import DirectStore
from tests.support.kept_events import event

TOKEN: Final = "token-of-the-admin"
BEARER: Final = {"Authorization": f"Bearer {TOKEN}"}
CONFIG: Final = """
store: {url: "sqlite:store.db"}
defaults: {spool: on}
upstreams: {php: {url: "http://127.0.0.1:9"}}
apps: {a: {upstream: php}}
"""
BODY: Final = b'{"appKey":"a","callId":"c","caller":"+4930123456","password":"hunter2"}'


async def nothing_to_do(loaded: Loaded) -> None:
    """Who puts a configuration in force, where nothing serves hooks."""


def admin(store: StoreConnection | None, text: str = CONFIG) -> httpx.AsyncClient:
    metrics = Metrics("0")
    state = AdminState(Reloader(loads(text), metrics, nothing_to_do), Lifecycle(), metrics.render, store=store)
    transport = httpx.ASGITransport(admin_app(state), client=("127.0.0.1", 1))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a store without events."""
    directory = tmp_path_factory.mktemp("empty")
    DirectStore(directory).close()
    return directory


@pytest.fixture
def store(empty: Path, tmp_path: Path) -> Iterator[DirectStore]:
    shutil.copytree(empty, tmp_path, dirs_exist_ok=True)
    opened = DirectStore(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
async def client(store: DirectStore) -> AsyncIterator[httpx.AsyncClient]:
    async with admin(store) as opened:
        yield opened


async def status(client: httpx.AsyncClient) -> dict[str, Any]:
    seen: dict[str, Any] = (await client.get("/api/spool")).json()
    return seen


async def listed(client: httpx.AsyncClient, **query: Any) -> list[int]:
    """The ids of all pages."""
    found: list[int] = []
    cursor = None
    while True:
        answer = await client.get("/api/spool/events", params={**query, **({"cursor": cursor} if cursor else {})})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += [each["id"] for each in page["events"]]
        cursor = page["next"]
        if cursor is None:
            return found


def bury(store: DirectStore, id_: int) -> None:
    """Make an event a dead letter."""
    with store.databases.spool.write() as connection:
        store.spool.settle(connection, [Settle(id_, "dead", error="HTTP 500")])


# --- what is kept ---


async def test_the_state_counts_what_is_kept(store: DirectStore, client: httpx.AsyncClient) -> None:
    ids = store.keep(event(1), event(2), event(3, app="gone", upstream="old"))
    bury(store, ids[0])
    seen = await status(client)
    assert (seen["store"]["configured"], seen["store"]["up"], seen["store"]["engine"]) == (True, True, "sqlite")
    assert (seen["events"], seen["dead"], seen["paused"]) == (2, 1, False)
    assert {each["upstream"]: (each["events"], each["dead"]) for each in seen["upstreams"]} == {
        "php": (1, 1), "old": (1, 0)
    }  # fmt: skip
    assert {each["app"]: each["configured"] for each in seen["apps"]} == {"a": True, "gone": False}


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_pages_have_every_event_once_the_oldest_first(
    store: DirectStore, client: httpx.AsyncClient, limit: int
) -> None:
    ids = store.keep(*map(event, range(7)))
    assert await listed(client, limit=limit) == ids


async def test_events_are_filtered(store: DirectStore, client: httpx.AsyncClient) -> None:
    ids = store.keep(event(1), event(2, app="b"), event(3, upstream="u"), event(4, method="ErrorEvent"))
    bury(store, ids[0])
    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({"app": "b"}, ids[1:2]), ({"upstream": "u"}, ids[2:3]), ({"method": "ErrorEvent"}, ids[3:]),
        ({"call_id": "c3"}, ids[2:3]), ({"dead": "1"}, ids[:1]), ({"dead": "0"}, ids[1:]),
        ({"id": ids[3]}, ids[3:]), ({"app": "b", "upstream": "u"}, []),
    ]  # fmt: skip
    for query, found in cases:
        assert await listed(client, **query) == found, query


async def test_one_event_is_shown_masked_unless_asked_for(store: DirectStore, client: httpx.AsyncClient) -> None:
    (id_,) = store.keep(event(body=BODY))
    masked = (await client.get(f"/api/spool/events/{id_}")).json()
    assert (masked["masked"], masked["caller"]) == (True, "*********56")
    assert "4930123456" not in masked["body"]
    assert "hunter2" not in masked["body"]
    whole = (await client.get(f"/api/spool/events/{id_}", params={"unmasked": 1})).json()
    assert (whole["masked"], whole["body"]) == (False, BODY.decode())
    assert whole["headers"][0] == ["host", "gateway"]


@pytest.mark.parametrize("name", ["99", "x", "-1", "1" * 40])
async def test_an_event_that_is_not_there_is_404(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.get(f"/api/spool/events/{name}")
    assert answer.status_code == 404
    assert answer.text.startswith("no such event")


async def test_an_export_has_every_event_whole_page_after_page(
    store: DirectStore, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    store.keep(
        *(event(number, body=b'{"appKey":"a","n":%d,"x":"%b"}' % (number, b"x" * 1000)) for number in range(450))
    )
    answer = await client.get("/api/spool/export", params={"app": "a"})
    assert answer.headers["content-type"] == "application/x-ndjson"
    records = [decode_record(line) for line in answer.content.splitlines()]
    assert [json.loads(bytes(record.hook))["n"] for record in records] == list(range(450))
    assert caplog.records[-1].__dict__["fields"] == {"event": "spool_export", "app": "a"}
    assert len(store.asked) == 3
    assert (await client.head("/api/spool/export")).content == b""


async def test_pages_of_an_export_are_bounded_in_bytes(store: DirectStore, client: httpx.AsyncClient) -> None:
    body = b'{"appKey":"a","x":"%b"}' % (b"x" * 5_000_000)
    store.keep(*(event(number, body=body) for number in range(3)))
    answer = await client.get("/api/spool/export")
    assert answer.content.count(b"\n") == 3
    assert len(store.asked) == 3


# --- actions ---


async def test_dead_letters_are_retried(
    store: DirectStore, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    ids = store.keep(event(1), event(2))
    bury(store, ids[0])
    answer = await client.post("/api/spool/retry", json={"dead": True})
    assert answer.json() == {"result": "retried", "events": 1, "next": None}
    assert (await status(client))["dead"] == 0
    assert caplog.records[-1].__dict__["fields"] == {"event": "spool_retry", "events": 1, "dead": True}
    assert caplog.records[-1].levelno == logging.WARNING


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ({"id": 2}, [1, 3]),
        ({"call_id": "c1"}, [2, 3]),
        ({"app": "b"}, [1, 2]),
        ({"all": 1}, []),
        ({"app": "x"}, [1, 2, 3]),
    ],
)
async def test_events_are_dropped(
    store: DirectStore, client: httpx.AsyncClient, query: dict[str, Any], left: list[int]
) -> None:
    assert store.keep(event(1), event(2), event(3, app="b")) == [1, 2, 3]
    answer = await client.post("/api/spool/drop", params=query)
    assert answer.json() == {"result": "dropped", "events": 3 - len(left), "next": None}
    assert await listed(client) == left


async def test_an_action_on_many_events_is_done_in_portions(
    store: DirectStore, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.keep(*map(event, range(2500)))
    monkeypatch.setattr(spool_api, "ACTION_TIME", -1.0)
    first = (await client.post("/api/spool/drop", json={"all": True})).json()
    assert (first["events"], first["next"] is None) == (1000, False)
    assert (await status(client))["events"] == 1500
    monkeypatch.setattr(spool_api, "ACTION_TIME", 60.0)
    rest = (await client.post("/api/spool/drop", json={"all": True, "cursor": first["next"]})).json()
    assert (rest["events"], rest["next"]) == (1500, None)


async def test_redelivery_is_paused_and_resumed(
    store: DirectStore, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    store.keep(event(1))
    assert (await client.post("/api/spool/pause", params={"upstream": "php"})).json()["result"] == "paused"
    assert caplog.records[-1].__dict__["fields"] == {"event": "spool_pause", "upstream": "php"}
    assert (await client.post("/api/spool/pause", params={"upstream": "php"})).json()["result"] == "unchanged"
    assert (await status(client))["upstreams"][0]["paused"] is True
    assert (await client.post("/api/spool/resume", params={"upstream": "php"})).json()["result"] == "resumed"
    assert (await status(client))["upstreams"][0]["paused"] is False
    assert (await client.post("/api/spool/pause")).json()["result"] == "paused"
    assert (await status(client))["paused"] is True


async def test_what_only_the_spool_knows_can_be_paused_too(store: DirectStore, client: httpx.AsyncClient) -> None:
    store.keep(event(1, app="gone", upstream="old"))
    for query in ({"app": "gone"}, {"upstream": "old"}):
        assert (await client.post("/api/spool/pause", params=query)).json()["result"] == "paused"
    for query, text in (({"app": "x"}, "no such app"), ({"upstream": "x"}, "no such upstream")):
        answer = await client.post("/api/spool/pause", params=query)
        assert (answer.status_code, answer.text.startswith(text)) == (404, True)


# --- mistakes ---


@pytest.mark.parametrize(
    ("method", "path", "content", "message"),
    [
        ("GET", "/api/spool/events?colour=red", b"", "unknown parameter 'colour'; known parameters: id, app, "),
        ("GET", "/api/spool/events?limit=0", b"", "limit must be a whole number from 1 to 1000"),
        ("GET", "/api/spool/events/1?unmasked=yes", b"", "unmasked must be 1 or 0"),
        ("GET", "/api/spool/events/1?colour=red", b"", "unknown parameter; known parameters: unmasked"),
        ("GET", "/api/spool/export?limit=1", b"", "unknown parameter 'limit'"),
        ("POST", "/api/spool/drop", b"", "say which events: id, app, upstream, method, call_id, dead=1; or all=1"),
        ("POST", "/api/spool/drop?dead=0", b"", "say which events"),
        ("POST", "/api/spool/drop?all=1&app=a", b"", "use either all or filters, not both"),
        ("POST", "/api/spool/retry", b"{}", "say which events"),
        ("POST", "/api/spool/drop", b'{"app":', "the body is not valid JSON"),
        ("POST", "/api/spool/drop?app=a", b'{"app":"a"}', "use either the query or the body, not both"),
        ("POST", "/api/spool/pause?app=a&upstream=php", b"", "name an upstream or an app, not both"),
        ("POST", "/api/spool/pause?dead=1", b"", "unknown parameter 'dead'; known parameters: upstream, app"),
    ],
)
async def test_a_mistake_is_400_in_plain_words_and_changes_nothing(
    store: DirectStore, client: httpx.AsyncClient, method: str, path: str, content: bytes, message: str
) -> None:
    store.keep(event(1))
    answer = await client.request(method, path, content=content)
    assert (answer.status_code, answer.text.startswith(message)) == (400, True), answer.text
    assert await listed(client) == [1]


async def test_a_body_that_is_too_large_is_413(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/spool/drop", content=b" " * 70_000)
    assert (answer.status_code, answer.text) == (413, "the body is larger than 64 KiB\n")


# --- no store, no answer ---


async def test_without_a_store_the_state_says_so_and_the_rest_is_409() -> None:
    async with admin(None, "apps: {}") as client:
        assert (await status(client))["store"]["configured"] is False
        for method, path in (
            ("GET", "events"),
            ("GET", "events/1"),
            ("GET", "export"),
            ("POST", "drop"),
            ("POST", "pause"),
        ):
            answer = await client.request(method, f"/api/spool/{path}")
            assert (answer.status_code, answer.text.startswith("no store is configured")) == (409, True)


async def test_a_store_that_is_not_connected_is_said() -> None:
    fd = create_table(slots=2**13)
    try:
        async with admin(StoreClient("nobody-listens-here", "admin", BacklogTable(fd))) as client:
            seen = await status(client)
            assert (seen["store"]["up"], seen["store"]["error"], seen["events"]) == (False, NOT_CONNECTED, None)
            answer = await client.get("/api/spool/events")
            assert (answer.status_code, answer.text) == (503, f"the store gives no answer: {NOT_CONNECTED}\n")
    finally:
        os.close(fd)


async def test_an_export_that_breaks_off_does_not_end_as_if_it_were_whole(
    store: DirectStore, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    store.keep(*map(event, range(450)))
    store.error, store.fails_after = "the disk is full", 2
    ends: list[bool] = []
    state = AdminState(
        Reloader(loads(CONFIG), Metrics("0"), nothing_to_do), Lifecycle(), Metrics("0").render, store=store
    )

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            ends.append(not message.get("more_body", False))

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http", "method": "GET", "path": "/api/spool/export", "query_string": b"", "headers": [],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "scheme": "http", "http_version": "1.1",
    }  # fmt: skip
    await admin_app(state)(scope, receive, send)
    assert ends == [False, False]
    assert caplog.records[-1].getMessage() == "the export of kept events is incomplete: the disk is full"


# --- who may ---


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/spool/drop?all=1"),
        ("POST", "/api/spool/retry?all=1"),
        ("POST", "/api/spool/pause"),
        ("POST", "/api/spool/resume"),
        ("GET", "/api/spool/export"),
        ("HEAD", "/api/spool/export"),
        ("GET", "/api/spool/events/1?unmasked=1"),
        ("GET", "/api/spool/events/1?%75nmasked=1"),
    ],
)
async def test_actions_and_whole_numbers_need_the_token_on_loopback_too(
    store: DirectStore, method: str, path: str
) -> None:
    store.keep(event(1))
    async with admin(store, CONFIG + f"admin: {{token: {TOKEN}}}\n") as client:
        assert (await client.request(method, path)).status_code == 401
        assert await listed(client) == [1]
        assert (await client.request(method, path, headers=BEARER)).status_code == 200
    async with admin(store) as client:
        assert (await client.request(method, path, headers={"origin": "http://evil.example"})).status_code == 403


async def test_what_is_masked_is_read_on_loopback_without_the_token(store: DirectStore) -> None:
    store.keep(event(1))
    async with admin(store, CONFIG + f"admin: {{token: {TOKEN}}}\n") as client:
        for path in ("", "/events", "/events/1"):
            assert (await client.get(f"/api/spool{path}")).status_code == 200
