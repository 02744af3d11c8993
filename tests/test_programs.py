"""The real programs of ``programs``, each on its own: what they do here, the gateway's tests rely on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from tests.support.programs import (
    CALL_ID,
    Backend,
    apache_php,
    free_port,
    java_hooks,
    php_server,
    promtool_check,
    require,
)

pytestmark = pytest.mark.real

INSTALL = Path(__file__).parent / "tools" / "install"
SERVERS = ["php -S", "Apache", "Apache without keep-alive"]
# Odd white space, an escaped and a real umlaut, a slash: all that a re-encoding would change.
HOOK = '{\n  "appKey" : "defaultApp",\t"callId":"a/b\\u00fc-ü",\r\n  "callee" : "%s", "n": 1.50 }\n'


def start(server: str) -> AbstractContextManager[Backend]:
    return php_server() if server == "php -S" else apache_php(keep_alive=server == "Apache")


@pytest.fixture(scope="module", params=SERVERS)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    with start(request.param) as started:
        yield started


def hook(callee: str) -> bytes:
    return (HOOK % json.dumps(callee)[1:-1]).encode()


def post(
    backend: Backend, body: bytes, headers: dict[str, str] | None = None, timeout: float = 10
) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection("127.0.0.1", backend.port, timeout=timeout)
    try:
        connection.request("POST", "/rest/my_api/OnCallEvent?x=/y", body, headers or {})
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def post_raw(backend: Backend, body: bytes) -> tuple[bytes, bytes]:
    """The answer's head and all that came behind it until the connection was closed."""
    with socket.create_connection(("127.0.0.1", backend.port), timeout=10) as connection:
        connection.sendall(
            b"POST /rest/my_api/OnCallEvent HTTP/1.1\r\nHost: legacy\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, rest = answer.partition(b"\r\n\r\n")
    return head.lower(), rest


def test_a_hook_is_accepted_with_its_own_bytes(backend: Backend) -> None:
    body = hook("PPP005")
    answer, received = post(backend, body)
    assert (answer.status, received) == (200, body)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Content-Length"] == str(len(body))


def test_a_hook_without_a_callee_is_accepted(backend: Backend) -> None:
    answer, received = post(backend, b'{"appKey": "a", "callee": null}')
    assert (answer.status, received) == (200, b'{"appKey": "a", "callee": null}')


def test_a_refusal_is_a_403_without_a_body(backend: Backend) -> None:
    answer, received = post(backend, hook("REFUSE-7"))
    assert (answer.status, answer.headers["Content-Length"], received) == (403, "0", b"")


@pytest.mark.parametrize(
    ("callee", "status", "content_type", "part"),
    [
        ("FATAL", 500, "application/json", ""),
        ("FATALSHOWN", 200, "application/json", "<b>Fatal error</b>"),
        ("STACKTRACE", 500, "text/html", "Stack trace:\n#0 "),
        ("EMPTY", 200, "application/json", ""),
        ("ARRAY", 200, "application/json", "[]"),
        ("HTML", 200, "text/html", "<title>Log in</title>"),
        ("REDIRECT", 302, "text/html", "<title>Log in</title>"),
    ],
)
def test_it_fails_as_old_php_fails(backend: Backend, callee: str, status: int, content_type: str, part: str) -> None:
    answer, received = post(backend, hook(callee))
    assert answer.status == status
    assert (answer.headers["Content-Type"] or "").startswith(content_type)
    if part:
        assert part.encode() in received
    else:
        assert received == b""
    assert (answer.headers["Location"] is not None) == (status == 302)


def test_a_notice_stands_before_the_json_and_quotes_the_callee(backend: Backend) -> None:
    body = hook('NOTICE {"a": 1}')
    answer, received = post(backend, body)
    notice = received.removesuffix(body)
    assert answer.status == 200
    assert notice.startswith(b"<br />\n<b>")
    assert b'"NOTICE {"a": 1}"' in notice


def test_a_notice_stands_after_the_json(backend: Backend) -> None:
    body = hook("NOTICEAFTER")
    answer, received = post(backend, body)
    assert answer.status == 200
    assert received.removeprefix(body).startswith(b"<br />\n<b>")


def test_more_is_sent_than_the_length_says(backend: Backend) -> None:
    body = hook("NOTICELENGTH")
    head, rest = post_raw(backend, body)
    assert b"\r\ncontent-length: %d\r\n" % len(body) in head + b"\r\n"
    assert rest.startswith(b"<br />\n<b>")
    assert rest.endswith(body)
    assert len(rest) > len(body)


def test_a_byte_order_mark_stands_before_the_json(backend: Backend) -> None:
    body = hook("BOM")
    answer, received = post(backend, body)
    assert (answer.status, received) == (200, b"\xef\xbb\xbf" + body)


def test_a_slow_hook_is_accepted_all_the_same(backend: Backend) -> None:
    body = hook("SLOW0.05")
    answer, received = post(backend, body)
    assert (answer.status, received) == (200, body)


def test_an_answer_closes_its_connection(backend: Backend) -> None:
    body = hook("CLOSE")
    answer, received = post(backend, body)
    assert (answer.status, received) == (200, body)
    assert "close" in answer.headers["Connection"]


def test_an_http_1_0_answer_ends_with_its_connection(backend: Backend) -> None:
    body = hook("HTTP10")
    head, rest = post_raw(backend, body)
    assert head.startswith(b"http/1.0 200 ")
    assert b"content-length" not in head
    assert b"transfer-encoding" not in head
    assert rest == body


@pytest.mark.parametrize("body", [b"", b"appKey=a", b"7", b'"x"', b"null"])
def test_what_is_no_json_object_is_a_bad_request(backend: Backend, body: bytes) -> None:
    answer, _ = post(backend, body)
    assert answer.status == 400


def test_every_hook_is_written_down_once(backend: Backend) -> None:
    body = hook("REFUSE-once")
    before = time.time()
    seen = len(backend.hooks())
    post(backend, body, {"X-Request-Id": "id-1", "Authorization": "WCS 00ff"})
    post(backend, b"not JSON")
    first, second = backend.hooks()[seen:]
    assert first._replace(time=0) == (
        *(0, "OnCallEvent", hashlib.sha1(body).hexdigest(), len(body)),
        *("id-1", True),
    )
    assert (second.length, second.request_id, second.authorization) == (8, None, False)
    assert before - 1 < first.time <= second.time


@pytest.mark.parametrize("server", SERVERS)
def test_php_has_no_complaint_about_the_backend_itself(server: str) -> None:
    with start(server) as backend:
        for callee in ["PPP005", "REFUSE", "EMPTY", "ARRAY", "BOM", "SLOW0", "CLOSE", "HTTP10", "REDIRECT"]:
            post(backend, hook(callee))
        assert not re.search("PHP (?!.*Development Server)", backend.errors())


def test_only_apache_with_keep_alive_keeps_a_connection() -> None:
    kept = {}
    for server in SERVERS:
        with start(server) as backend:
            answer, _ = post(backend, hook("PPP005"))
            kept[server] = not answer.will_close
    assert kept == {"php -S": False, "Apache": True, "Apache without keep-alive": False}


def test_apache_does_not_serve_as_root() -> None:
    with apache_php(workers=1) as backend:
        post(backend, hook("PPP005"))
        children = Path(f"/proc/{backend.pid}/task/{backend.pid}/children").read_text().split()
        owners = [Path(f"/proc/{child}").stat().st_uid for child in children]
        assert owners
        assert 0 not in owners


def test_a_full_pool_lets_a_hook_wait() -> None:
    with apache_php(workers=1, keep_alive=False) as backend:
        busy = threading.Thread(target=_post_and_be_cut_off, args=(backend,))
        busy.start()
        try:
            _wait_for_hooks(backend, 1)
            with pytest.raises(TimeoutError):
                post(backend, hook("PPP005"), timeout=0.3)
            assert len(backend.hooks()) == 1
        finally:
            os.kill(backend.pid, signal.SIGTERM)
            busy.join(10)
        assert not busy.is_alive()


def _post_and_be_cut_off(backend: Backend) -> None:
    with pytest.raises((ConnectionError, TimeoutError)):
        post(backend, hook("SLOW60"))


def _wait_for_hooks(backend: Backend, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(backend.hooks()) < count:
        assert time.monotonic() < deadline, "the hook never arrived"
        time.sleep(0.01)


@pytest.mark.parametrize("server", SERVERS)
def test_nothing_listens_once_the_server_has_ended(server: str) -> None:
    with start(server) as backend:
        pass
    with pytest.raises(ConnectionRefusedError):
        post(backend, hook("PPP005"))


@pytest.mark.parametrize("keep_alive", [True, False])
def test_each_hook_of_the_java_client_is_seen_once_and_comes_back_whole(keep_alive: bool) -> None:
    template = hook("PPP005").decode().replace("a/b", CALL_ID)
    with apache_php(workers=16, keep_alive=keep_alive) as backend:
        results = java_hooks(f"{backend.url}/OnCallEvent", threads=8, count=200, template=template)
        seen = backend.hooks()
    assert len({result.call_id for result in results}) == 200
    assert [result.error for result in results if result.error] == []
    assert {result.status for result in results} == {200}
    assert all(result.received_sha1 == result.sent_sha1 for result in results)
    assert sorted(one.sha1 for one in seen) == sorted(result.sent_sha1 for result in results)


def test_the_java_client_reports_what_is_not_200_as_it_is() -> None:
    nothing = hashlib.sha1(b"").hexdigest()
    with apache_php() as backend:
        url = f"{backend.url}/OnCallEvent"
        [refused] = java_hooks(url, threads=1, count=1, template=hook("REFUSE").decode())
        [moved] = java_hooks(url, threads=1, count=1, template=hook("REDIRECT").decode())
        [late] = java_hooks(url, threads=1, count=1, template=hook("SLOW60").decode(), read_timeout=0.3)
    assert (refused.status, refused.received_sha1, refused.error) == (403, nothing, None)
    assert (moved.status, moved.error) == (302, None)
    assert (late.status, late.received_sha1) == (None, None)
    assert (late.error or "").startswith("SocketTimeoutException: ")


def test_the_java_client_reports_a_dead_server() -> None:
    [result] = java_hooks(f"http://127.0.0.1:{free_port()}/x", threads=1, count=1, template="{}")
    assert (result.status, result.received_sha1) == (None, None)
    assert (result.error or "").startswith("ConnectException: ")


def test_promtool_has_nothing_to_say_about_sound_metrics() -> None:
    sound = "# HELP gateway_hooks_total Hooks.\n# TYPE gateway_hooks_total counter\ngateway_hooks_total 1\n"
    assert promtool_check(sound) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("# TYPE gateway_hooks_total counter\ngateway_hooks_total 1\n", "no help text"),
        ("# HELP gateway_hooks Hooks.\n# TYPE gateway_hooks counter\ngateway_hooks 1\n", "_total"),
        ("gateway_hooks_total{ 1\n", "error while linting"),
    ],
)
def test_promtool_complains(text: str, complaint: str) -> None:
    assert any(complaint in line for line in promtool_check(text))


def test_a_missing_program_skips_the_test_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"no-such is not installed \(Debian package nothing\)"):
        require("no-such", "nothing")


def test_a_missing_program_fails_the_test_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"no-such is not installed \(Debian package nothing\)"):
        require("no-such", "nothing")


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_the_installer_without_apt_says_what_is_missing(tmp_path: Path, ci: str, status: int) -> None:
    bash = require("bash", "bash")
    done = subprocess.run(
        [bash, str(INSTALL)],
        env={"PATH": str(tmp_path), "CI": ci},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == status
    assert "apt-get is not here" in done.stderr
    assert "promtool (Debian package prometheus)" in done.stderr
    assert done.stdout == ""
