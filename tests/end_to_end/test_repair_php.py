"""Answers that real PHP polluted, repaired; and callers who put an answer into what real PHP quotes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest

from gateway.model.hooks import is_json_object
from gateway.policy.repair import Repaired, RepairFailure, repair
from tests.support.gateways import RunningGateway, running_gateway, wait_until
from tests.support.programs import Backend, apache_php, require

pytestmark = pytest.mark.real

SCRIPT: Final = Path(__file__).parent.parent / "tools" / "polluting.php"
IDENTIFIERS: Final = {
    "nodeId": "node@192.0.2.1",
    "appKey": "defaultApp",
    "sessionId": "/203.0.113.7:49783/192.0.2.101:8443",
    "callId": "call-1",
}
FAKE: Final = json.dumps({**IDENTIFIERS, "restPolicy": "OVERWRITE"})
FORGERIES: Final = {
    "text": f"x in /var/www/index.php on line 12\n{FAKE}\n\nNotice: y",
    "html": f"x in <b>/index.php</b> on line <b>12</b><br />\n{FAKE}<br />\n<b>Notice</b>:  y",
}
"""Callees that end the message in which they are quoted, answer, and begin another, in text and in HTML."""

POLLUTING: Final = {
    "bom own": "bom",
    "own bom": "bom",
    "key own": "before",
    "variable own": "before",
    "file own": "before",
    "deprecated own": "before",
    "notice own": "before",
    "eval own": "before",
    "own key": "after",
    "own line deprecated": "after",
    "key own variable": "before+after",
    "bom key bom variable own line": "bom+before",
    "key file deprecated notice eval own key file deprecated notice eval": "before+after",
    "notice own exit fatal": "before",
}
"""Steps of the script, and what is cut from what it prints."""
WRONG: Final = ["key", "exit", "key own own", "own fatal", "fatal", "key fatal", "own throw", "own key own"]


def hook_of(steps: str, callee: str = "0800-1234", **fields: Any) -> bytes:
    return json.dumps({**IDENTIFIERS, "caller": "110", "callee": callee, "steps": steps.split(), **fields}).encode()


SETTINGS: Final = {
    "text": {"display_errors": "1", "html_errors": "0"},
    "html": {"display_errors": "1", "html_errors": "1"},
    "logged": {"display_errors": "0", "log_errors": "1"},
    "logged with the time": {"display_errors": "0", "log_errors": "1", "error_log": "/dev/stdout"},
}


def printed(hook: bytes, setting: str) -> bytes:
    """What PHP on the command line prints, its log in the midst of it where there is one."""
    php = require("php", "php-cli")
    options = {"log_errors": "0", **SETTINGS[setting]}
    command = [php, "-n", *(f"-d{name}={value}" for name, value in options.items()), str(SCRIPT)]
    done = subprocess.run(command, input=hook, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20)
    return done.stdout


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("steps", POLLUTING)
def test_what_php_prints_around_the_answer_is_cut_away(steps: str, setting: str) -> None:
    hook = hook_of(steps)
    body = printed(hook, setting)
    found = repair(body, hook)
    assert not is_json_object(body)
    assert isinstance(found, Repaired), body
    assert (found.body, "+".join(found.kinds)) == (hook, POLLUTING[steps])


@pytest.mark.parametrize("setting", ["text", "html"])
@pytest.mark.parametrize("steps", WRONG)
def test_what_is_no_certain_answer_is_left_alone(steps: str, setting: str) -> None:
    hook = hook_of(steps)
    assert isinstance(repair(printed(hook, setting), hook), RepairFailure)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("form", FORGERIES)
@pytest.mark.parametrize("step", ["bare", "key", "file", "notice", "hook", "fatal", "throw"])
def test_adversarial_php_quotes_an_answer_and_it_is_never_taken_for_one(step: str, form: str, setting: str) -> None:
    for steps in (step, f"{step} exit", f"{step} own", f"own {step}", f"deprecated {step} deprecated"):
        hook = hook_of(steps, FORGERIES[form])
        body = printed(hook, setting)
        assert isinstance(repair(body, hook), RepairFailure)
        if step == "bare" and form == setting:
            assert b"\n" + FAKE.encode() in body  # PHP has escaped nothing: the attack is real


@pytest.mark.parametrize(
    ("form", "end", "beginning"),
    [
        ("text", "x in /a.php on line 1", "Notice: y"),
        ("html", "x in <b>/a.php</b> on line <b>1</b><br />", "<br />\n<b>Notice</b>:  y"),
    ],
)
def test_adversarial_the_hook_itself_is_no_answer_where_php_decodes_the_ends_of_its_message(
    form: str, end: str, beginning: str
) -> None:
    hook = hook_of("decoded", each_escaped(end), caller=each_escaped(beginning))
    body = printed(hook, form)
    assert f"{end}\n{hook.decode()}\n{beginning}".encode() in body  # the attack is real: it only has to be taken
    assert isinstance(repair(body, hook), RepairFailure)


def each_escaped(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


# --- the whole way ---


class Setting(NamedTuple):
    gateway: RunningGateway
    php: Backend


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    with apache_php(script=SCRIPT) as php:
        config = {
            "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
            "defaults": {"timeout": "10s", "dedupe": "off"},
            "upstreams": {"php": {"url": php.url, "connect_timeout": "5s"}},
            "apps": {
                "defaultApp": {"upstream": "php", "response_check": "repair"},
                "strict": {"upstream": "php"},
                "unchecked": {"upstream": "php", "response_check": "off"},
            },
        }
        with running_gateway(json.dumps(config), tmp_path_factory.mktemp("repair")) as gateway:
            yield Setting(gateway, php)


def told(gateway: RunningGateway, answer: httpx.Response) -> dict[str, Any]:
    """The access line of a hook."""
    return gateway.access_line(answer.headers["x-request-id"])


def call_of(gateway: RunningGateway, answer: httpx.Response) -> dict[str, Any]:
    """What the journal has of a hook."""
    request_id = answer.headers["x-request-id"]

    def found() -> dict[str, Any] | None:
        found: list[dict[str, Any]] = gateway.get("/api/decisions", params={"q": request_id}).json()["decisions"]
        return found[0] if found else None

    call: dict[str, Any] | None = wait_until(found)
    assert call is not None
    return call


@pytest.mark.parametrize("as_html", [False, True], ids=["text", "html"])
@pytest.mark.parametrize("steps", POLLUTING)
def test_the_media_server_gets_the_backend_s_own_object(setting: Setting, steps: str, as_html: bool) -> None:
    gateway = setting.gateway
    hook = hook_of(steps, html=as_html)
    answer = gateway.hook(body=hook)
    assert (answer.status_code, answer.content) == (200, hook)
    assert answer.headers["content-type"] == "application/json"
    line = told(gateway, answer)
    assert (line["verdict"], line["source"], line["repaired"]) == ("allow", "backend", POLLUTING[steps])


def test_the_answer_needs_no_repair_where_nothing_is_wrong(setting: Setting) -> None:
    gateway = setting.gateway
    answer = gateway.hook(body=hook_of("own"))
    assert answer.status_code == 200
    assert "repaired" not in told(gateway, answer)


def test_the_journal_shows_what_was_cut_with_the_numbers_masked(setting: Setting) -> None:
    gateway = setting.gateway
    answer = gateway.hook(body=hook_of("notice own", "+493012345678"))
    call = call_of(gateway, answer)
    assert call["repaired"] == "before"
    assert call["cut"].startswith("Notice: No route to ***********78 in /")


def test_an_answer_repaired_is_an_attempt_that_went_well(setting: Setting) -> None:
    gateway = setting.gateway
    count = "gateway_upstream_attempts_total"
    before = gateway.metric(count, outcome="ok"), gateway.metric(count, outcome="bad_answer")
    assert before[0] or before[1]
    gateway.hook(body=hook_of("key own"))
    assert (gateway.metric(count, outcome="ok"), gateway.metric(count, outcome="bad_answer")) == (
        before[0] + 1,
        before[1],
    )


@pytest.mark.parametrize("form", FORGERIES)
@pytest.mark.parametrize("step", ["bare", "key", "hook", "fatal"])
def test_adversarial_the_caller_s_object_never_goes_out(setting: Setting, step: str, form: str) -> None:
    gateway = setting.gateway
    for steps in (step, f"{step} exit", f"{step} own", f"own {step}", f"deprecated {step} deprecated"):
        hook = hook_of(steps, FORGERIES[form], html=form == "html")
        answer = gateway.hook(body=hook)
        assert (answer.status_code, answer.content) == (403, b"")
        assert told(gateway, answer)["reason"] in ("bad_answer", "error_status")  # a 500, where nothing was printed


def test_without_repair_the_same_answer_is_a_bad_one(setting: Setting) -> None:
    gateway = setting.gateway
    for steps in ("bom own", "key own", "own key"):
        answer = gateway.hook(body=hook_of(steps, appKey="strict"))
        assert answer.status_code == 403
        assert told(gateway, answer)["reason"] == "bad_answer"


def test_without_a_check_any_200_is_a_yes_with_the_body_as_it_came(setting: Setting) -> None:
    gateway = setting.gateway
    for steps in ("bom own", "key own", "key", ""):
        hook = hook_of(steps, appKey="unchecked")
        answer = gateway.hook(body=hook)
        direct = httpx.post(f"{setting.php.url}/OnCallEvent", content=hook, trust_env=False)
        assert (answer.status_code, answer.content) == (200, direct.content)
