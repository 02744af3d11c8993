"""The console's page of the spool, and decisions of the history, in a real browser, before a gateway with a store."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.browsers import DESK, PATIENCE, PHONE, Size, Watched, chromium, watched
from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.spool_backend import EventBackend, Script

pytestmark = pytest.mark.real

TOKEN: Final = "token-of-the-admin"
ENVIRONMENT: Final = {"TEST_ADMIN_TOKEN": TOKEN}
DOWN: Final = Script(up=False)

expect.set_options(timeout=PATIENCE)


def config(backend: EventBackend, directory: Path) -> str:
    """Events become dead letters at the first failure of their own."""
    return json.dumps(
        {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
            "admin": {"token": "${env:TEST_ADMIN_TOKEN}"},
            "store": {"url": f"sqlite:///{directory}/store.db"},
            "history": {},
            "defaults": {"timeout": "5s", "spool": {"attempts": 1}},
            "upstreams": {"php": {"url": backend.url, "breaker": "off"}},
            "apps": {"acme": {"upstream": "php"}},
        }
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventBackend]:
    with EventBackend(tmp_path_factory.mktemp("backend")) as running:
        yield running


@pytest.fixture(scope="module")
def started(backend: EventBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """With the history of an earlier process, which decided hooks of the call *yesterday*."""
    earlier, directory = tmp_path_factory.mktemp("earlier"), tmp_path_factory.mktemp("gateway")
    text = config(backend, directory)
    with running_gateway(text, earlier, environment=ENVIRONMENT) as first:
        for number in range(3):
            assert first.hook(appKey="acme", callId="yesterday", id=f"h{number}").status_code == 200
        kept = wait_until(lambda: first.get("/api/decisions").json()["history"]["oldest"])
        assert kept, first.log.read_text()
    with running_gateway(text, directory, environment=ENVIRONMENT) as running:
        assert wait_until(lambda: running.get("/api/spool").json()["store"]["up"]), running.log.read_text()
        yield running


@pytest.fixture
def gateway(started: RunningGateway, backend: EventBackend) -> RunningGateway:
    """With nothing kept and nothing paused, its backend up."""
    backend.follow(Script())
    for action in ("resume", "drop?all=1"):
        answer = started.post(f"/api/spool/{action}", headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 200, answer.text
    return started


@pytest.fixture
def shown(browser: Browser, gateway: RunningGateway) -> Iterator[Watched]:
    """The console, which must have had nothing to complain of by the end."""
    with watched(browser, gateway.admin) as seen:
        yield seen
        assert seen.complaints == []


@pytest.fixture
def page(shown: Watched) -> Page:
    return shown.page


def go(page: Page, view: str = "spool") -> None:
    page.goto(f"/#/{view}")
    expect(page.locator("#live")).to_have_text("live")


def keep(gateway: RunningGateway, *ids: str) -> None:
    """Send an event each, of a call of its own, that the gateway is to keep."""
    for number in ids:
        answer = gateway.hook("CallStatusEvent", appKey="acme", id=number, callId=f"call-{number}", status="FINISH")
        assert answer.status_code == 200
        assert gateway.access_line(answer.headers["x-request-id"])["source"] == "spool"


def die(gateway: RunningGateway, backend: EventBackend, number: str) -> None:
    """Make a dead letter of this event: the backend takes another one, and not this one."""
    backend.follow(Script(poison={number: 500}))
    assert gateway.hook("CallStatusEvent", appKey="acme", id="well", callId="another").status_code == 200
    keep(gateway, number)
    assert wait_until(lambda: gateway.get("/api/spool").json()["dead"] >= 1), gateway.log.read_text()


def confirm(page: Page, button: str, token: str | None = None) -> None:
    if token is not None:
        page.locator("#action-token").fill(token)
    page.locator("#action").get_by_role("button", name=button).click()


def backlog(page: Page, kind: Literal["upstreams", "apps"], name: str) -> Locator:
    return page.locator(f"#spool-{kind} tr", has_text=name)


def test_what_waits_is_shown_by_upstream_and_app_paused_and_resumed_until_nothing_waits(
    page: Page, gateway: RunningGateway, backend: EventBackend
) -> None:
    go(page)
    expect(page.locator("#spool-summary")).to_have_text("No event waits: all were delivered")
    answered = backend.count()
    backend.follow(DOWN)
    keep(gateway, "one", "two", "three")
    expect(page.locator("#spool-summary")).to_contain_text(re.compile(r"3 events wait for delivery, the oldest for \d"))
    expect(page.locator("#spool-tiles")).to_contain_text("Waiting3")
    expect(page.locator("#spool-store")).to_contain_text("sqlite, up")
    for kind, name in (("upstreams", "php"), ("apps", "acme")):
        expect(backlog(page, kind, name).locator("td").first).to_have_text("3")  # type: ignore[arg-type]
    backlog(page, "upstreams", "php").get_by_role("button").click()
    expect(page.get_by_role("dialog")).to_contain_text("Pause redelivery to php?")
    confirm(page, "Pause", TOKEN)
    expect(backlog(page, "upstreams", "php")).to_contain_text("paused")
    backend.follow(Script())
    page.locator("#spool-upstreams a", has_text="php").click()
    expect(page.locator("#spool-events tr")).to_have_count(3)
    expect(page.locator("#spool-summary")).to_contain_text("3 events wait")
    assert backend.count() == answered
    backlog(page, "upstreams", "php").get_by_role("button").click()
    confirm(page, "Resume")
    expect(page.locator("#spool-summary")).to_have_text("No event waits: all were delivered")
    expect(page.locator("#spool-events tr")).to_have_count(0)
    assert wait_until(lambda: backend.count() == answered + 3)


def test_all_redelivery_is_paused_and_the_first_view_says_what_waits(
    page: Page, gateway: RunningGateway, backend: EventBackend
) -> None:
    backend.follow(DOWN)
    keep(gateway, "one")
    go(page, "now")
    expect(page.locator("#troubles")).to_contain_text("1 event waits for delivery")
    page.locator("#troubles a", has_text="Spool").click()
    page.get_by_role("button", name="Pause all redelivery").click()
    confirm(page, "Pause", TOKEN)
    expect(page.locator("#spool-note")).to_contain_text("redelivery is paused")
    page.get_by_role("button", name="Resume all redelivery").click()
    confirm(page, "Resume")
    expect(page.locator("#spool-note")).not_to_contain_text("redelivery is paused")


def test_a_dead_letter_is_shown_retried_and_dropped_after_a_question(
    page: Page, gateway: RunningGateway, backend: EventBackend
) -> None:
    die(gateway, backend, "poison")
    go(page)
    expect(page.locator("#spool-note")).to_contain_text("1 dead letter below")
    row = page.locator("#spool-events tr", has_text="call-poison")
    expect(row).to_contain_text("500")
    row.get_by_role("link").click()
    dialog = page.get_by_role("dialog", name="CallStatusEvent of acme")
    expect(dialog).to_contain_text("Dead letter")
    expect(dialog.locator("pre")).to_contain_text('"callId"')
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    tries = sum(event.id == "poison" for event in backend.received())
    row.get_by_role("button", name="Retry").click()
    confirm(page, "Retry", TOKEN)
    expect(page.locator("#toasts")).to_contain_text("1 event will be tried again now")
    assert wait_until(lambda: sum(event.id == "poison" for event in backend.received()) > tries)
    assert wait_until(lambda: gateway.get("/api/spool").json()["dead"] == 1)  # it has failed again
    backend.follow(Script())
    page.get_by_role("button", name="Retry all").click()
    confirm(page, "Retry")
    expect(page.locator("#spool-summary")).to_have_text("No event waits: all were delivered")
    die(gateway, backend, "worthless")
    row = page.locator("#spool-events tr", has_text="call-worthless")
    row.get_by_role("button", name="Drop").click()
    expect(page.get_by_role("dialog")).to_contain_text("cannot be brought back")
    page.get_by_role("button", name="Cancel").click()
    expect(row).to_have_count(1)
    row.get_by_role("button", name="Drop").click()
    confirm(page, "Drop")
    expect(page.locator("#toasts")).to_contain_text("1 event dropped")
    expect(page.locator("#spool-events-empty")).to_have_text("No dead letters.")
    assert gateway.get("/api/spool").json()["dead"] == 0


def test_a_store_that_is_down_is_shown_with_the_reason(browser: Browser, backend: EventBackend, tmp_path: Path) -> None:
    (tmp_path / "store.spool.db").write_bytes(b"this is no database" * 100)
    with (
        running_gateway(config(backend, tmp_path), tmp_path, environment=ENVIRONMENT) as gateway,
        watched(browser, gateway.admin) as seen,
    ):
        go(seen.page)
        expect(seen.page.locator("#spool-summary")).to_contain_text("The store is down")
        expect(seen.page.locator("#spool-note")).to_contain_text("store.spool.db")
        go(seen.page, "now")
        expect(seen.page.locator("#summary")).to_have_text("Problems with the store")
        assert seen.complaints == []


def test_decisions_of_an_earlier_process_are_found_in_the_history(page: Page, gateway: RunningGateway) -> None:
    go(page, "decisions?call_id=yesterday")
    expect(page.locator("#decisions tr")).to_have_count(3)
    expect(page.locator("#decisions-state")).to_contain_text("3 decisions found · searched back to")
    page.locator("#decisions a").first.click()
    expect(page.get_by_role("dialog", name="OnCallEvent of acme")).to_contain_text("Configuration")
    go(page, "decisions?call_id=never")
    expect(page.locator("#decisions-empty")).to_contain_text("No matching decision since")


@pytest.mark.parametrize(("size", "scheme"), [(DESK, "light"), (PHONE, "dark")])
def test_the_page_has_no_accessibility_violation_and_does_not_scroll_sideways(
    browser: Browser,
    gateway: RunningGateway,
    backend: EventBackend,
    size: Size,
    scheme: Literal["light", "dark"],
) -> None:
    die(gateway, backend, "poison")
    backend.follow(DOWN)
    keep(gateway, "one", "two")
    with watched(browser, gateway.admin, size=size, scheme=scheme) as seen:
        for view in ("spool", "spool?events=waiting&app=acme", "now"):
            go(seen.page, view)
            expect(seen.page.locator("#troubles li" if view == "now" else "#spool-events tr").first).to_be_visible()
            assert seen.violations() == [], view
            assert seen.page.evaluate("document.documentElement.scrollWidth") <= size.width, view
        go(seen.page)
        seen.page.locator("#spool-events a").first.click()
        expect(seen.page.locator("#kept-body pre")).to_be_visible()
        assert seen.violations() == []
        assert seen.complaints == []
