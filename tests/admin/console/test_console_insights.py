"""What the console shows of this protocol's own matters, in a real browser, before a real gateway."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from gateway.policy.comparison import Difference
from gateway.policy.shadow import ShadowResult
from tests.support.browsers import PATIENCE, PHONE, Watched, chromium, watched
from tests.support.faulty import FaultyBackend, Turn, added_case, refused_port, reply
from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.matters import sections

pytestmark = pytest.mark.real

SCRIPT: Final = "<script>alert(1)</script>"
NOTICE: Final = f"<br />\n<b>Notice</b>:  Undefined index: {SCRIPT} in <b>/srv/old.php</b> on line <b>7</b><br />\n"
SPAMMER: Final = "+493012399"

expect.set_options(timeout=PATIENCE)


def polluted(turn: Turn) -> list[bytes]:
    """PHP of old: a notice, and then the answer."""
    return [reply(NOTICE.encode() + turn.request.body)]


def config(backend: FaultyBackend, refused: int) -> str:
    to_well = {"methods": "connect", "upstream": "well"}
    enforced = {"mode": "enforce", "methods": {"call": {"restOnError": "FAIL"}}}
    more: dict[str, dict[str, Any]] = {
        "mixed": {"upstream": "denied", "rules": [to_well, {"callee": "page", "upstream": "php"}]},
        "half": {"upstream": "denied", "rules": [to_well], "rest_client_config": enforced},
        "compared": {"upstream": "well", "shadow": {"upstream": "denied"}},
        "tried": {"upstream": "well", "shadow": {"upstream": "gone"}},
    }
    made = sections(backend, refused, "polluted", more)
    made["upstreams"]["gone"]["breaker"] = {"failures": 1, "open_for": "1h"}
    return json.dumps(made)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with (
        FaultyBackend() as backend,
        refused_port() as refused,
        added_case("polluted", "A notice that quotes a script, then the hook's own body.", polluted),
        running_gateway(config(backend, refused), tmp_path_factory.mktemp("insights")) as running,
    ):
        yield running


@pytest.fixture
def shown(browser: Browser, gateway: RunningGateway) -> Iterator[Watched]:
    with watched(browser, gateway.admin) as seen:
        yield seen
        assert seen.complaints == []


@pytest.fixture
def page(shown: Watched) -> Page:
    return shown.page


def go(page: Page, view: str) -> None:
    page.goto(f"/#/{view}")
    expect(page.locator("#live")).to_have_text("live")


def hook(gateway: RunningGateway, app: str, status: int, method: str = "OnCallEvent", **fields: Any) -> str:
    """Send a hook; its request id."""
    answer = gateway.hook(method, appKey=app, **fields)
    assert answer.status_code == status, answer.text
    return answer.headers["x-request-id"]


def ignored(gateway: RunningGateway, session: str) -> str:
    """A rejection in a session whose connect answer set nothing; its request id."""
    hook(gateway, "acme", 200, "connect", sessionId=session)
    return hook(gateway, "acme", 403, sessionId=session, callId="ignored")


def show(page: Page, request_id: str) -> None:
    go(page, f"decisions/{request_id}")
    expect(page.locator("#decision-body")).to_contain_text(request_id)


def test_an_ignored_rejection_is_shown_with_what_to_do(page: Page, gateway: RunningGateway) -> None:
    request_id = ignored(gateway, "s-1")
    go(page, "now")
    line = page.locator("#insights > li", has_text="Rejections the media server ignores")
    expect(line).to_contain_text("acme")
    expect(line).to_contain_text("Set rest_client_config: enforce")
    line.get_by_role("link").click()
    row = page.locator("#decisions tr", has_text="ignored").first
    expect(row).to_contain_text("the media server ignores this rejection")
    expect(page.locator("#decisions tr")).to_have_count(
        len(gateway.get("/api/decisions?ineffective=1").json()["decisions"])
    )
    show(page, request_id)
    expect(page.locator("#decision-body .badge.bad")).to_have_text("the media server ignores this rejection")
    expect(page.locator("#decision-body .means")).to_contain_text("this rejection stopped nothing")


def test_the_problems_name_ignored_rejections(page: Page, gateway: RunningGateway) -> None:
    go(page, "now")
    ignored(gateway, "s-2")
    expect(page.locator("#troubles")).to_contain_text("rejections/s ignored by the media server")


def test_the_cause_of_failures_is_not_taken_from_ignored_rejections(page: Page, gateway: RunningGateway) -> None:
    """They may be many, come from a healthy target, and have begun long before."""
    go(page, "now")
    hook(gateway, "mixed", 200, "connect", sessionId="s-6")
    for number in range(6):
        hook(gateway, "mixed", 403, sessionId="s-6", callId=f"refused-{number}")
    hook(gateway, "mixed", 403, sessionId="s-6", callee="page")
    trouble = page.locator("#troubles li", has_text="mixed").filter(has_text="failing (bad answer")
    expect(trouble).to_contain_text("“status 200 with a PHP message")


def test_an_answer_to_connect_is_told_with_what_it_lacks(page: Page, gateway: RunningGateway) -> None:
    show(page, hook(gateway, "acme", 200, "connect", sessionId="s-3"))
    expect(page.locator("#decision-body")).to_contain_text("It lacks the required restOnError=FAIL")


def test_adversarial_what_was_cut_away_is_shown_as_text_and_runs_nothing(page: Page, gateway: RunningGateway) -> None:
    request_id = hook(gateway, "old-php", 200, callId="cut")
    show(page, request_id)
    cut = page.locator("#decision-body pre.cut")
    expect(cut).to_contain_text(SCRIPT)
    expect(cut).to_contain_text("/srv/old.php")
    assert cut.locator("*").count() == 0
    assert page.locator("#decision-body :is(script, img, iframe)").count() == 0
    go(page, "decisions?app=old-php&repaired=1")
    expect(page.locator("#decisions tr").first).to_contain_text("repaired: text before the object")
    go(page, "now")
    expect(page.locator("#insights > li", has_text="Repaired answers")).to_contain_text("before 1")


def test_a_rule_is_named_where_it_decided_and_counted(page: Page, gateway: RunningGateway) -> None:
    request_id = hook(gateway, "ruled", 403, caller=SPAMMER)
    show(page, request_id)
    expect(page.locator("#decision-body")).to_contain_text("Rule spam decided; no backend was contacted.")
    go(page, "now")
    line = page.locator("#insights > li", has_text="Rule spam")
    expect(line).to_contain_text("1 match since start")
    line.get_by_role("link").click()
    expect(page.locator("#decisions tr")).to_have_count(1)
    expect(page.locator("#decisions tr")).to_contain_text("by rule spam")


def test_the_actual_traffic_split_is_shown(page: Page, gateway: RunningGateway) -> None:
    for number in range(20):
        assert gateway.hook(appKey="canary", sessionId=f"session-{number}").status_code in (200, 403)
    go(page, "now")
    line = page.locator("#insights > li", has_text="Traffic split (actual)")
    expect(line).to_contain_text("(weight 3)")
    expect(line).to_contain_text("(weight 1)")
    expect(line.locator("svg.share")).to_be_visible()


def test_a_hook_put_elsewhere_names_the_upstream_that_was_not_there(page: Page, gateway: RunningGateway) -> None:
    hook(gateway, "away", 200)
    show(page, hook(gateway, "away", 200))
    expect(page.locator("#decision-body")).to_contain_text(
        "Upstream gone gave no verdict (unreachable); the hook failed over to well"
    )
    go(page, "now")
    expect(page.locator("#insights > li", has_text=re.compile("gone (is|was) down"))).to_be_visible()


def with_shadow(gateway: RunningGateway, request_id: str) -> dict[str, Any]:
    """The call as the gateway tells it, and a shadow's result as it would tell that."""
    decision: dict[str, Any] = gateway.get(f"/api/decisions/{request_id}").json()
    differences = (
        Difference("restClientConfig.OnCallEvent.restOnError", '"FAIL"', None),
        Difference("callee", f'"{SCRIPT}"', '"200"'),
    )
    return decision | {"shadow": msgspec.to_builtins(ShadowResult("new", "body_differs", 200, "", 12.5, differences))}


def test_adversarial_where_a_candidate_differs_is_a_table_of_text(shown: Watched, gateway: RunningGateway) -> None:
    page = shown.page
    request_id = hook(gateway, "ruled", 200, callId="compared")
    decision = with_shadow(gateway, request_id)

    def answer(route: Route) -> None:
        route.fulfill(json=decision)

    page.route(f"**/api/decisions/{request_id}", answer)
    show(page, request_id)
    table = page.locator("#decision-body table.diff")
    expect(table.locator("tbody tr")).to_have_count(2)
    expect(table).to_contain_text("restClientConfig.OnCallEvent.restOnError")
    expect(table.locator("tbody tr").first).to_contain_text("nothing")
    expect(table).to_contain_text(SCRIPT)
    assert table.locator("script").count() == 0
    expect(page.locator("#decision-body")).to_contain_text("new sent a different body: HTTP 200")
    assert shown.violations() == []


def test_a_candidate_s_agreement_is_shown_with_its_last_differences(page: Page, gateway: RunningGateway) -> None:
    request_id = hook(gateway, "compared", 200, callId="differs")
    assert wait_until(lambda: gateway.get(f"/api/decisions/{request_id}").json()["shadow"] is not None, 20)
    go(page, "now")
    line = page.locator("#insights > li", has_text="Candidate denied")
    expect(line).to_contain_text("agrees in 0 % of 1 hook; verdict differs 1")
    expect(line.locator(".differing")).to_contain_text("verdict: allow → reject")
    expect(line.locator(".differing a")).to_have_attribute("href", f"#/decisions/{request_id}")
    line.locator("a").first.click()
    expect(page.locator("#decisions tr")).to_have_count(1)
    expect(page.locator("#decisions tr")).to_contain_text("denied gave a different verdict")


def test_a_row_that_was_painted_before_its_candidate_had_answered_is_painted_anew(
    page: Page, gateway: RunningGateway
) -> None:
    answered = threading.Event()

    def decisions(route: Route) -> None:
        told = route.fetch().json()
        if not answered.is_set():
            told["decisions"] = [{**each, "shadow": None} for each in told["decisions"]]
        route.fulfill(json=told)

    request_id = hook(gateway, "compared", 200, callId="late")
    assert wait_until(lambda: gateway.get(f"/api/decisions/{request_id}").json()["shadow"] is not None, 20)
    page.route("**/api/decisions?*", decisions)
    go(page, "decisions?app=compared&shadow=differs")
    row = page.locator("#decisions tr", has_text="late")
    expect(row).to_contain_text("by the backend")
    expect(row).not_to_contain_text("different verdict")
    answered.set()
    hook(gateway, "compared", 200, callId="next")  # what comes in has the list asked for again
    expect(row).to_contain_text("denied gave a different verdict")
    expect(row).to_have_count(1)


def test_a_candidate_that_gives_no_verdict_is_a_warning_and_leads_to_the_hooks(
    page: Page, gateway: RunningGateway
) -> None:
    request_id = hook(gateway, "tried", 200, callId="unanswered")
    assert wait_until(lambda: gateway.get(f"/api/decisions/{request_id}").json()["shadow"] is not None, 20)
    go(page, "now")
    line = page.locator("#insights > li", has_text="Candidate gone")
    expect(line).to_contain_text("agrees in – of 0 hooks; candidate failed 1")
    expect(line).to_have_class("warn")
    line.locator("a").first.click()
    expect(page.locator("#decisions tr")).to_have_count(1)
    expect(page.locator("#decisions tr")).to_contain_text("unanswered")


def test_the_first_lines_are_shown_until_all_are_asked_for(page: Page, gateway: RunningGateway) -> None:
    def insights(route: Route) -> None:
        told = route.fetch().json()
        told["apps"] = [{**told["apps"][0], "app": f"app-{number}", "rules": []} for number in range(30)]
        route.fulfill(json=told)

    ignored(gateway, "s-5")
    page.route("**/api/insights*", insights)
    go(page, "now")
    expect(page.locator("#insights > li")).to_have_count(12)
    page.get_by_role("button", name="Show all 30").click()
    expect(page.locator("#insights > li")).to_have_count(30)


@pytest.mark.parametrize("view", ["now", "decisions?repaired=1"])
def test_what_is_new_has_no_accessibility_violation_and_fits_a_phone(
    browser: Browser, gateway: RunningGateway, view: str
) -> None:
    ignored(gateway, "s-4")
    hook(gateway, "old-php", 200, callId="on a phone")
    with watched(browser, gateway.admin, size=PHONE) as seen:
        go(seen.page, view)
        expect(seen.page.locator("#insights > li, #decisions tr").first).to_be_attached()
        assert seen.violations() == []
        assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert seen.complaints == []


def test_where_enforce_names_other_methods_it_says_so(page: Page, gateway: RunningGateway) -> None:
    hook(gateway, "half", 200, "connect", sessionId="s-half")
    hook(gateway, "half", 403, sessionId="s-half")
    go(page, "now")
    line = page.locator("#insights > li", has_text="half").filter(has_text="Rejections the media server ignores")
    expect(line).to_contain_text("add OnCallEvent with restOnError: FAIL to rest_client_config.methods")
