"""The console's switch between this gateway and all, and its page of the fleet, in a real browser."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from typing import Final, Literal

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browsers import DESK, PATIENCE, PHONE, Size, Watched, chromium, watched
from tests.support.fleets import fleet_config, know_each_other, running_fleet, states_of
from tests.support.gateways import RunningGateway, wait_until
from tests.support.redis import redis_server

pytestmark = [pytest.mark.real, pytest.mark.slow]

TOKEN: Final = "token-of-the-admin"

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningGateway]]:
    with redis_server() as redis:
        targets = "[{url: 'http://127.0.0.1:9/rest'}, {url: 'http://127.0.0.1:7/rest', backup: true}]"
        more = f"  quiet: {{static: allow}}\nadmin: {{token: {TOKEN}}}"
        config = fleet_config(redis.url, targets, more)
        with running_fleet([config, config], tmp_path_factory.mktemp("fleet")) as gateways:
            yield gateways


@pytest.fixture
def shown(browser: Browser, fleet: list[RunningGateway]) -> Iterator[Watched]:
    """The console of the first gateway, which must have had nothing to complain of by the end."""
    with watched(browser, fleet[0].admin) as seen:
        yield seen
        assert seen.complaints == []


@pytest.fixture
def page(shown: Watched) -> Page:
    return shown.page


def go(page: Page, view: str) -> None:
    page.goto(f"/#/{view}")
    expect(page.locator("#live")).to_have_text("live")


def choose(page: Page, whose: str) -> None:
    page.get_by_label("Gateways shown").select_option(whose)


def test_the_fleet_is_a_page_with_every_gateway(page: Page) -> None:
    go(page, "now")
    page.get_by_role("link", name="Fleet").click()
    expect(page.locator("#fleet-summary")).to_have_text("2 gateways, all alike")
    rows = page.locator("#replicas tr")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text(re.compile(r"^athis one, 127\.0\.0\.1:\d+ready0\.1\.0"))
    expect(rows.last).to_contain_text(re.compile(r"^b127\.0\.0\.1:\d+ready0\.1\.0.*noneup$"))
    expect(page.locator("#orders-empty")).to_be_visible()


def test_the_switch_shows_this_gateway_or_all_and_is_kept_for_the_tab(page: Page, fleet: list[RunningGateway]) -> None:
    fleet[1].hook(body=b'{"appKey": "quiet", "callId": "at b"}')
    fleet[0].hook(body=b'{"appKey": "quiet", "callId": "at a"}')
    go(page, "decisions?app=quiet")
    expect(page.locator("#decisions")).to_contain_text("at a")
    expect(page.locator("#decisions")).not_to_contain_text("at b")
    choose(page, "All gateways")
    expect(page.locator("#decisions tr", has_text="at b").first).to_contain_text("at b")
    fleet[1].hook(body=b'{"appKey": "quiet", "callId": "later"}')
    expect(page.locator("#decisions tr", has_text="later").first).to_be_visible()
    page.locator("#decisions tr", has_text="later").first.get_by_role("link").click()
    expect(page.get_by_role("dialog")).to_contain_text("later")
    page.keyboard.press("Escape")
    page.reload()
    expect(page.get_by_label("Gateways shown")).to_have_value("all")
    go(page, "now")
    expect(page.locator("#apps")).to_contain_text("defaultApp")
    expect(page.locator("#upstreams")).to_contain_text("127.0.0.1:9")
    choose(page, "This gateway")
    expect(page.locator("#upstreams")).to_contain_text("127.0.0.1:9")
    go(page, "decisions?app=quiet")
    expect(page.locator("#decisions")).not_to_contain_text("later")


def test_a_target_ejected_here_is_said_to_be_out_everywhere(page: Page, fleet: list[RunningGateway]) -> None:
    go(page, "now")
    choose(page, "All gateways")
    page.get_by_role("button", name="Eject 127.0.0.1:7 of php").click()
    expect(page.get_by_role("dialog")).to_contain_text("at all gateways of the fleet, also at those that start later")
    page.locator("#action-token").fill(TOKEN)
    page.locator("#action").get_by_role("button", name="Eject it").click()
    assert wait_until(lambda: states_of(fleet[1])["127.0.0.1:7"] == "ejected_by_operator")
    expect(page.locator("#upstreams")).to_contain_text("at 2 of 2 gateways: a, b")
    go(page, "fleet")
    expect(page.locator("#orders")).to_contain_text("php: 127.0.0.1:7 is ejected by an operator since")
    go(page, "now")
    page.get_by_role("button", name="Restore 127.0.0.1:7 of php").click()
    page.locator("#action").get_by_role("button", name="Restore it").click()
    assert wait_until(lambda: states_of(fleet[1])["127.0.0.1:7"] == "up")


def test_a_gateway_that_hangs_is_named_in_every_view(page: Page, fleet: list[RunningGateway]) -> None:
    go(page, "now")
    choose(page, "All gateways")
    os.kill(fleet[1].pid, signal.SIGSTOP)
    try:
        expect(page.locator("#troubles")).to_contain_text(re.compile("Gateway b(no answer within|lost: )"))
        go(page, "fleet")
        expect(page.locator("#fleet-summary")).to_have_text("1 gateway of 2 without an answer")
        expect(page.locator("#replicas tr", has_text="lost: no sign of life")).to_have_count(1)
        go(page, "decisions")
        expect(page.locator("#decisions-state")).to_contain_text(re.compile(r"no answer from gateway b \((no|lost)"))
    finally:
        os.kill(fleet[1].pid, signal.SIGCONT)
    know_each_other(fleet)
    go(page, "fleet")
    expect(page.locator("#fleet-summary")).to_have_text("2 gateways, all alike")


@pytest.mark.parametrize(("size", "scheme"), [(DESK, "light"), (PHONE, "dark")])
def test_no_view_has_an_accessibility_violation_or_scrolls_sideways(
    browser: Browser, fleet: list[RunningGateway], size: Size, scheme: Literal["light", "dark"]
) -> None:
    fleet[1].hook()
    fleet[0].post("/api/upstreams/php/127.0.0.1:7/eject", headers={"Authorization": f"Bearer {TOKEN}"})
    with watched(browser, fleet[0].admin, size=size, scheme=scheme) as seen:
        page = seen.page
        for view in ("fleet", "now", "decisions", "spool", "gateway"):
            go(page, view)
            expect(page.get_by_label("Gateways shown")).to_be_visible()
            choose(page, "All gateways")
            if view == "fleet":
                expect(page.locator("#orders")).to_contain_text("is ejected")
            elif view == "now":
                expect(page.locator("#upstreams")).to_contain_text("at 2 of 2 gateways")
            elif view == "decisions":
                expect(page.locator("#decisions")).to_contain_text("at b")
            assert seen.violations() == [], view
            assert page.evaluate("document.documentElement.scrollWidth") <= size.width, view
        assert seen.complaints == []
    fleet[0].post("/api/upstreams/php/127.0.0.1:7/restore", headers={"Authorization": f"Bearer {TOKEN}"})


def test_a_gateway_without_a_state_has_neither_switch_nor_page(browser: Browser, gateway: RunningGateway) -> None:
    with watched(browser, gateway.admin) as seen:
        go(seen.page, "fleet")
        expect(seen.page.locator("#fleet-summary")).to_have_text("No state is configured: this gateway knows no others")
        expect(seen.page.get_by_label("Gateways shown")).to_be_hidden()
        expect(seen.page.get_by_role("link", name="Fleet")).to_be_hidden()
        assert seen.violations() == []
        assert seen.complaints == []
