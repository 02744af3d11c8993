"""The console in a real browser, before a real gateway."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from gateway.admin import console
from tests.support.browsers import DESK, PATIENCE, PHONE, Size, Watched, chromium, watched
from tests.support.faulty import FaultyBackend
from tests.support.gateways import ROOT, RunningGateway, running_gateway
from tests.support.programs import free_port

pytestmark = pytest.mark.real

TOKEN: Final = "token-of-the-admin"
ENVIRONMENT: Final = {"TEST_ADMIN_TOKEN": TOKEN}
NAUGHTY: Final = ROOT.parent / "shared" / "corpora" / "naughty_strings.json"
VIEWS: Final = ("now", "decisions?q=accessible", "spool", "gateway")
MANY: Final = 1000

expect.set_options(timeout=PATIENCE)


def config(backend: FaultyBackend, *, admin: dict[str, str] | None = None, ports: tuple[int, int] = (0, 0)) -> str:
    """An app whose backend is well, one whose backend sends HTML, one of whose two targets one is well."""
    return json.dumps(
        {
            "server": {"listen": f"127.0.0.1:{ports[0]}", "admin": f"127.0.0.1:{ports[1]}"},
            "admin": {} if admin is None else admin,
            "defaults": {"dedupe": "off", "timeout": "5s"},
            "upstreams": {
                "well": {"url": backend.url_of("ok"), "breaker": "off"},
                "php": {"url": backend.url_of("body_html"), "breaker": "off"},
                "mixed": {
                    "targets": [{"url": backend.url_of("close_without_a_byte")}, {"url": backend.url_of("ok_close")}],
                    "retry": {"attempts": 2, "on": ["connect", "reset"]},
                    "breaker": "off",
                },
            },
            "apps": {
                "acme": {"upstream": "well"},
                "borealis": {"upstream": "php"},
                "mixed": {"upstream": "mixed"},
                "closed": {"static": "reject"},
            },
        }
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def backend() -> Iterator[FaultyBackend]:
    with FaultyBackend() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(backend: FaultyBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """With an admin token."""
    text = config(backend, admin={"token": "${env:TEST_ADMIN_TOKEN}"})
    with running_gateway(text, tmp_path_factory.mktemp("console"), environment=ENVIRONMENT) as running:
        yield running


@pytest.fixture
def shown(browser: Browser, gateway: RunningGateway) -> Iterator[Watched]:
    """The console, live; it must have had nothing to complain of by the end."""
    with watched(browser, gateway.admin) as seen:
        go(seen.page)
        yield seen
        assert seen.complaints == []


@pytest.fixture
def page(shown: Watched) -> Page:
    return shown.page


def go(page: Page, view: str = "now") -> None:
    """Open a view and wait until it is live."""
    page.goto(f"/#/{view}")
    expect(page.locator("#live")).to_have_text("live")


def rows(page: Page) -> Locator:
    return page.locator("#decisions tr")


def allowed(gateway: RunningGateway, call_id: str, app: str = "acme") -> None:
    assert gateway.hook(appKey=app, callId=call_id).status_code == 200


def rejected(gateway: RunningGateway, call_id: str, app: str = "borealis") -> str:
    """Send a hook that is rejected; its request id."""
    answer = gateway.hook(appKey=app, callId=call_id)
    assert answer.status_code == 403
    return answer.headers["x-request-id"]


# --- the files ---


def test_the_page_comes_with_a_policy_that_lets_it_run_its_own_files_only(gateway: RunningGateway) -> None:
    answer = gateway.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers.get_list("content-security-policy") == [console.CONTENT_SECURITY_POLICY]
    assert "unsafe" not in console.CONTENT_SECURITY_POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_every_file_is_served_with_its_type_and_nothing_else_is(gateway: RunningGateway) -> None:
    types = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    for path in console.PATHS - {"/"}:
        answer = gateway.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(types[path.rpartition(".")[2]])
        assert gateway.post(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 405
    for path in ("/console/", "/console", "/console/__init__.py", "/console/../admin.py", "/index.html"):
        assert gateway.get(path).status_code == 404


def test_no_file_names_an_outside_address_or_makes_markup_of_text() -> None:
    directory = Path(console.__file__).parent
    for file in (file for file in directory.iterdir() if file.suffix in {".html", ".css", ".js"}):
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", text), file
        assert not re.search(r"<[^>]* (style|on\w+)=|<script>|<style", text), file


def test_the_hook_port_has_no_console(gateway: RunningGateway) -> None:
    for path in console.PATHS:
        answer = gateway.client.get(f"http://{gateway.hooks}{path}")
        assert answer.status_code in (404, 405)
        assert b"<html" not in answer.content


# --- the view Now ---


def test_it_shows_the_apps_and_targets_and_what_is_wrong(page: Page, gateway: RunningGateway) -> None:
    allowed(gateway, "fine")
    rejected(gateway, "wrong")
    row = page.locator("#apps tr", has_text="borealis")
    expect(row).to_contain_text("bad answer")
    expect(page.locator("#apps tr").first).to_contain_text("borealis")
    expect(page.locator("#summary")).to_contain_text("Problems with")
    trouble = page.locator("#troubles li", has_text="borealis")
    expect(trouble).to_contain_text(re.compile(r"all at 127\.0\.0\.1:\d+, “status 200 with an HTML page .*”, since \d"))
    expect(page.locator("#failures li").first).to_contain_text("bad answer")
    expect(page.locator("#upstreams article")).to_have_count(3)
    expect(page.locator("#upstreams li")).to_have_count(4)
    expect(page.locator("#tiles")).to_contain_text("4 of 4")
    expect(page.get_by_role("img", name=re.compile("^Hooks per second over"))).to_be_visible()


def test_the_trouble_leads_to_its_decisions(page: Page, gateway: RunningGateway) -> None:
    request_id = rejected(gateway, "to-be-found")
    page.locator("#troubles a", has_text="borealis").click()
    expect(page.locator(f'#decisions a[href$="{request_id}"]')).to_be_visible()
    expect(page.get_by_label("App", exact=True)).to_have_value("borealis")
    expect(page.get_by_label("failures only")).to_be_checked()
    assert page.url.endswith("#/decisions?app=borealis&failures=1")


# --- the decisions ---


def test_the_list_is_filtered_by_search_app_verdict_and_reason(page: Page, gateway: RunningGateway) -> None:
    allowed(gateway, "filter-one")
    allowed(gateway, "filter-two")
    rejected(gateway, "filter-three")
    go(page, "decisions")
    page.get_by_label("Search").fill("filter-")
    expect(rows(page)).to_have_count(3)
    page.get_by_label("App", exact=True).fill("acme")
    expect(rows(page)).to_have_count(2)
    page.get_by_label("App", exact=True).fill("")
    page.get_by_label("Reason").select_option("bad_answer")
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("filter-three")
    page.get_by_label("Reason").select_option("")
    page.get_by_label("Verdict").select_option("allow")
    expect(rows(page)).to_have_count(2)
    page.get_by_label("Verdict").select_option("")
    page.get_by_label("failures only").check()
    expect(rows(page)).to_have_count(1)
    page.reload()
    expect(rows(page)).to_have_count(1)  # the address holds the filters
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_label("Search")).to_have_value("")
    expect(rows(page).filter(has_text="filter-one")).to_have_count(1)


def test_the_list_follows_what_fits_its_filters_until_it_is_paused(page: Page, gateway: RunningGateway) -> None:
    go(page, "decisions")
    page.get_by_label("Search").fill("follow-")
    expect(page.locator("#decisions-state")).to_contain_text("0 decisions found")
    allowed(gateway, "follow-one")
    allowed(gateway, "other-one")
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("follow-one")
    page.get_by_role("button", name="Pause").click()
    allowed(gateway, "follow-two")
    expect(page.locator("#decisions-state")).to_contain_text("paused, 1 new")
    expect(rows(page)).to_have_count(1)
    page.get_by_role("button", name="Follow").click()
    expect(rows(page)).to_have_count(2)
    expect(rows(page).first).to_contain_text("follow-two")


def test_a_range_of_time_narrows_the_list_and_stays_in_the_address(page: Page, gateway: RunningGateway) -> None:
    allowed(gateway, "ranged-one")
    go(page, "decisions")
    page.get_by_label("Search").fill("ranged-")
    expect(rows(page)).to_have_count(1)
    page.get_by_label("From", exact=True).fill("2001-02-03T04:05")
    expect(page).to_have_url(re.compile(r"since=2001-02-0\d"))
    expect(rows(page)).to_have_count(1)
    page.get_by_label("To", exact=True).fill("2001-02-04T04:05:06")
    expect(rows(page)).to_have_count(0)
    expect(page.locator("#decisions-empty")).to_contain_text("no history is configured")
    page.reload()
    expect(page.get_by_label("From", exact=True)).to_have_value("2001-02-03T04:05")
    expect(rows(page)).to_have_count(0)
    page.goto("/#/decisions?q=ranged-&since=5m")
    expect(rows(page)).to_have_count(1)
    page.get_by_label("App", exact=True).fill("acme")
    expect(page.locator("#narrowed")).to_contain_text("since 5m")
    expect(rows(page)).to_have_count(1)


def test_a_decision_is_shown_in_full(page: Page, gateway: RunningGateway) -> None:
    request_id = rejected(gateway, "shown-one")
    go(page, "decisions")
    page.locator(f'#decisions a[href$="{request_id}"]').click()
    dialog = page.get_by_role("dialog", name="OnCallEvent of borealis")
    expect(dialog).to_contain_text("Rejected by the fallback")
    expect(dialog).to_contain_text("HTTP 403 with an empty body")
    expect(dialog.locator(".means")).to_contain_text("restOnError=FAIL")
    expect(dialog.locator(".attempts li")).to_have_count(1)
    expect(dialog.locator(".attempts li")).to_contain_text("bad answer")
    expect(dialog).to_contain_text("shown-one")
    expect(dialog).to_contain_text(request_id)
    dialog.get_by_role("link", name="All decisions of this call").click()
    expect(dialog).to_be_hidden()
    expect(rows(page)).to_have_count(1)
    page.get_by_role("link", name="Remove the filter call").click()
    expect(page.locator("#narrowed")).to_be_hidden()


def test_a_decision_shows_every_attempt(page: Page, gateway: RunningGateway) -> None:
    answers = [gateway.hook(appKey="mixed", callId=f"retried-{number}") for number in range(2)]
    assert {answer.status_code for answer in answers} == {200}
    retried = [
        decision
        for decision in gateway.get("/api/decisions", params={"app": "mixed"}).json()["decisions"]
        if len(decision["attempts"]) == 2
    ]
    assert retried
    page.goto(f"/#/decisions/{retried[0]['request_id']}")  # as a colleague was sent it
    items = page.locator(".attempts li")
    expect(items).to_have_count(2)
    expect(items.first).to_contain_text("unreachable")
    expect(items.last).to_contain_text("allowed")


def test_a_decision_that_is_no_longer_known_is_said_to_be_so(shown: Watched) -> None:
    shown.page.goto("/#/decisions/no-such-request")
    expect(shown.page.get_by_role("dialog")).to_contain_text("not in the journal")
    assert [complaint for complaint in shown.complaints if "404" not in complaint] == []
    shown.complaints.clear()  # the browser itself complains of the 404


def test_it_is_used_with_the_keyboard_alone(page: Page, gateway: RunningGateway) -> None:
    request_id = rejected(gateway, "keyboard")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    link = page.locator(f'#failures a[href$="{request_id}"]')
    link.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(link).to_be_focused()
    expect(page).to_have_url(re.compile("#/now$"))  # set by the event that follows the closing


def test_whatever_a_caller_sends_stays_text(page: Page, gateway: RunningGateway) -> None:
    if not NAUGHTY.exists():
        pytest.skip("the corpora are not here")
    sent: list[str] = [text for text in json.loads(NAUGHTY.read_text("utf-8")) if "<" in text or "&" in text]
    assert len(sent) > 50
    go(page, "decisions")
    page.get_by_label("App", exact=True).fill("acme")
    for text in sent:
        body = json.dumps({"appKey": "acme", "callId": text, "caller": text, "sessionId": text}).encode()
        assert gateway.hook(body=body).status_code == 200
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Follow").click()  # asks again, for what came too fast
    newest = gateway.get("/api/decisions", params={"app": "acme", "limit": 100}).json()["decisions"]
    expect(page.locator("#decisions td.id").first).to_have_text(newest[0]["call_id"].strip() or re.compile(""))
    texts = page.locator("#decisions td.id").evaluate_all("cells => cells.map(cell => cell.textContent)")
    assert set(texts) == {decision["call_id"] for decision in newest}
    assert page.locator("#decisions td.id *").count() == 0
    for decision in (decision for decision in newest[:30] if "<" in decision["call_id"]):
        page.goto(f"/#/decisions/{decision['request_id']}")
        expect(page.locator("#decision-body .facts")).to_contain_text(decision["request_id"])
        assert (
            page.locator("#decision-body :is(script, img, iframe, svg:not(.timeline), b, a[href^=javascript])").count()
            == 0
        )


def test_events_are_read_however_they_are_cut(page: Page) -> None:
    text = ': keep-alive\n\nevent: a\ndata: {"x":\ndata: 1}\n\ndata: é\n\nevent: b\n\nid: 7\r\ndata:2\r\n\r\n'
    read = page.evaluate(
        """async text => {
            const { parser } = await import("/console/stream.js");
            const told = [];
            for (let size = 1; size <= text.length; size++) {
                const events = [];
                const feed = parser((name, data) => events.push([name, data]));
                for (let at = 0; at < text.length; at += size) feed(text.slice(at, at + size));
                told.push(events);
            }
            return told;
        }""",
        text,
    )
    assert len(read) == len(text)
    assert all(events == [["a", '{"x":\n1}'], ["message", "é"], ["message", "2"]] for events in read)


# --- a thousand apps ---


@pytest.fixture(scope="module")
def large(backend: FaultyBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    apps = {f"tenant-{number:04}": {"upstream": f"u{number % 40:02}"} for number in range(MANY)}
    cases = {"u39": "body_html"}
    text = {
        "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "upstreams": {name: {"url": backend.url_of(cases.get(name, "ok"))} for name in (f"u{n:02}" for n in range(40))},
        "apps": apps,
    }  # fmt: skip
    with running_gateway(json.dumps(text), tmp_path_factory.mktemp("large")) as running:
        yield running


def test_a_thousand_apps_are_shown_in_part_and_found_by_name(browser: Browser, large: RunningGateway) -> None:
    with watched(browser, large.admin) as seen:
        page = seen.page
        go(page)
        large.hook(appKey="tenant-0700")
        expect(page.locator("#apps tr").first).to_contain_text("tenant-0700")
        expect(page.locator("#apps tr")).to_have_count(50)
        expect(page.locator("#apps-count")).to_contain_text("of 1 000")
        page.get_by_label("Find an app").fill("tenant-099")
        expect(page.locator("#apps tr")).to_have_count(10)
        expect(page.locator("#upstreams article")).to_have_count(30)
        page.get_by_label("Find an upstream or target").fill("u39")
        expect(page.locator("#upstreams article")).to_have_count(1)
        for number in (39, 79, 119):  # their common upstream's trouble is reported once
            assert large.hook(appKey=f"tenant-{number:04}").status_code == 403
        expect(page.locator("#summary")).to_have_text("Problems with 3 apps")
        expect(page.locator("#troubles li")).to_have_count(1)
        expect(page.locator("#troubles")).to_contain_text("and 2 other apps")
        go(page, "gateway")
        page.get_by_label("Find in the configuration").fill("tenant-0999")
        expect(page.locator("#config-found")).to_have_text("1 entry found")
        expect(page.locator("#config pre")).to_contain_text("tenant-0999:")
        assert seen.complaints == []


# --- the connection ---


def test_it_survives_a_restart_of_the_gateway(browser: Browser, backend: FaultyBackend, tmp_path: Path) -> None:
    text = config(backend, ports=(free_port(), free_port()))
    with running_gateway(text, tmp_path) as first, watched(browser, first.admin) as seen:
        page = seen.page
        go(page)
        allowed(first, "before")
        expect(page.locator("#apps tr").first).to_contain_text("acme")
        page.goto("/#/decisions")
        expect(rows(page)).to_have_count(1)
        first.stop()
        expect(page.get_by_role("alert").filter(has_text="Connection lost, retrying")).to_be_visible()
        expect(page.locator("#live")).to_have_text("no connection")
        assert seen.violations() == []
        with running_gateway(text, tmp_path) as second:
            expect(page.locator("#live")).to_have_text("live")
            expect(page.locator("#notice")).to_be_hidden()
            expect(rows(page)).to_have_count(0)  # the new process knows nothing of the old one's
            allowed(second, "after")
            expect(rows(page)).to_have_count(1)
            expect(rows(page)).to_contain_text("after")
        # The browser itself says of each attempt that nobody answered.
        assert [complaint for complaint in seen.complaints if "net::ERR" not in complaint] == []


def test_from_elsewhere_it_asks_for_the_token_and_keeps_it_for_the_tab_alone(
    browser: Browser, gateway: RunningGateway
) -> None:
    def as_from_elsewhere(route: Route) -> None:
        if route.request.headers.get("authorization") == f"Bearer {TOKEN}":
            route.continue_()
        else:
            route.fulfill(status=401, body="the admin port asks for its token")

    with watched(browser, gateway.admin) as seen:
        page = seen.page
        page.route("**/api/**", as_from_elsewhere)
        page.goto("/")
        field = page.locator("#action-token")
        expect(field).to_be_focused()
        field.fill("not this one")
        field.press("Enter")
        expect(field).to_have_value("")
        field.fill(TOKEN)
        field.press("Enter")
        expect(page.locator("#live")).to_have_text("live")
        expect(page.locator("#summary")).not_to_contain_text("Loading")
        assert page.evaluate("JSON.stringify(localStorage) + document.cookie").find(TOKEN) < 0
        assert TOKEN in page.evaluate("JSON.stringify(sessionStorage)")
        page.reload()
        expect(page.locator("#live")).to_have_text("live")
        assert [complaint for complaint in seen.complaints if "401" not in complaint] == []


# --- actions ---


def confirm(page: Page, button: str, token: str | None = None) -> None:
    """Confirm the action of the open dialog."""
    if token is not None:
        page.locator("#action-token").fill(token)
    page.locator("#action").get_by_role("button", name=button).click()


def test_a_target_is_ejected_and_restored_with_the_token(shown: Watched, gateway: RunningGateway) -> None:
    page = shown.page
    box = page.get_by_role("article", name="Upstream well")
    box.get_by_role("button", name="Eject").click()
    expect(page.get_by_role("dialog")).to_contain_text("the last available target of well")
    confirm(page, "Eject it", "not the token")
    expect(page.get_by_role("alert").filter(has_text="not accepted")).to_be_visible()
    confirm(page, "Eject it", TOKEN)
    expect(box.locator(".badge")).to_have_text("ejected")
    expect(page.locator("#troubles")).to_contain_text("ejected by an operator")
    assert gateway.hook(appKey="acme").status_code == 403
    box.get_by_role("button", name="Restore").click()
    confirm(page, "Restore it")  # the token is known by now
    expect(box.locator(".badge")).to_have_text("up")
    assert gateway.hook(appKey="acme").status_code == 200
    assert [complaint for complaint in shown.complaints if "401" not in complaint] == []
    shown.complaints.clear()


def test_the_gateway_is_drained_and_made_ready_again(page: Page, gateway: RunningGateway) -> None:
    go(page, "gateway")
    page.get_by_role("button", name="Drain").click()
    confirm(page, "Drain", TOKEN)
    expect(page.locator("#phase")).to_have_text("draining")
    assert gateway.get("/-/ready").status_code == 503
    page.get_by_role("button", name="End the drain").click()
    confirm(page, "End the drain")
    expect(page.locator("#phase")).to_have_text("ready")
    assert gateway.get("/-/ready").status_code == 200
    page.get_by_role("button", name="Forget the token").click()
    page.get_by_role("button", name="Reload").click()
    expect(page.get_by_role("textbox", name="Admin token")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()


def test_a_reload_is_told_with_its_problems_and_its_changes(
    browser: Browser, backend: FaultyBackend, tmp_path: Path
) -> None:
    text = config(backend, admin={"token": "${env:TEST_ADMIN_TOKEN}"})
    with (
        running_gateway(text, tmp_path, environment=ENVIRONMENT) as gateway,
        watched(browser, gateway.admin) as seen,
    ):
        page = seen.page
        go(page, "gateway")
        expect(page.locator("#config")).to_contain_text("${env:TEST_ADMIN_TOKEN}")
        gateway.write_config(text.replace('"5s"', '"never"'))
        assert gateway.post("/-/reload", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 422
        expect(page.locator("#reload")).to_contain_text("failed")
        expect(page.locator("#reload")).to_contain_text("defaults.timeout")
        page.goto("/#/now")
        expect(page.locator("#troubles")).to_contain_text("The last reload failed")
        gateway.write_config(text.replace('"5s"', '"4s"'))
        assert gateway.post("/-/reload", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        go(page, "gateway")
        expect(page.locator("#reload")).to_contain_text("successful")
        expect(page.locator("#config")).to_contain_text("timeout: 4s")
        assert seen.complaints == []


def test_without_an_admin_token_it_explains_that_browsers_cannot_send_actions(
    browser: Browser, large: RunningGateway
) -> None:
    with watched(browser, large.admin) as seen:
        go(seen.page, "gateway")
        expect(seen.page.locator("#actions-hint")).to_contain_text("Set admin.token to enable these buttons")
        seen.page.get_by_role("button", name="Drain").click()
        dialog = seen.page.get_by_role("dialog")
        expect(dialog).to_contain_text("admin.token")
        expect(dialog).to_contain_text(f"curl -X POST http://{large.admin}/-/drain")
        expect(dialog.get_by_role("button", name="Drain")).to_be_hidden()
        expect(seen.page.locator("#action-token")).to_be_hidden()
        assert seen.complaints == []


# --- how it looks ---


@pytest.mark.parametrize(("size", "scheme"), [(DESK, "light"), (PHONE, "dark")])
def test_no_view_has_an_accessibility_violation_or_scrolls_sideways(
    browser: Browser, gateway: RunningGateway, size: Size, scheme: Literal["light", "dark"]
) -> None:
    allowed(gateway, f"accessible-{scheme}")
    request_id = rejected(gateway, f"accessible-too-{scheme}")
    with watched(browser, gateway.admin, size=size, scheme=scheme) as seen:
        page = seen.page
        for view in (*VIEWS, f"decisions/{request_id}"):
            go(page, view)
            if view == "now":
                rejected(gateway, f"accessible-now-{scheme}")  # what is shown here is the last minute's
                expect(page.locator("#troubles li").first).to_be_visible()
            elif view == "gateway":
                expect(page.locator("#facts div").first).to_be_visible()
            elif view == "spool":
                expect(page.locator("#spool-summary")).to_contain_text("No store is configured")
                expect(page.locator("#spool-example")).to_contain_text("store: {url:")
            elif view.startswith("decisions?"):
                expect(rows(page).first).to_be_visible()
            else:
                expect(page.locator(".attempts li").first).to_be_visible()
            assert seen.violations() == [], view
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= size.width, view
        go(page, "gateway")
        page.get_by_role("button", name="Drain").click()
        assert seen.violations() == []
        assert seen.complaints == []


def test_the_colours_are_chosen_and_kept(page: Page) -> None:
    def background() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = background()
    switch = page.get_by_role("button", name="Colours")
    switch.click()
    expect(switch).to_have_accessible_name("Colours: light")
    assert background() == light
    switch.click()
    expect(switch).to_have_accessible_name("Colours: dark")
    dark = background()
    assert dark != light
    page.reload()
    expect(switch).to_have_accessible_name("Colours: dark")
    assert background() == dark
    switch.click()
    expect(switch).to_have_accessible_name("Colours: as in the system settings")
    assert background() == light
