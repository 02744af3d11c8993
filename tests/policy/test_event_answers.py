"""When an event counts as delivered: any 2xx, unless PHP reports in it that its script died."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.client import Answer
from gateway.model.hooks import is_json_object
from gateway.model.verdicts import Cause, Failure, ProxyError, Reason, Ruling, Source, Verdict
from gateway.policy.event_answers import EventCheck, decompress, reports_fatal
from gateway.policy.repair import ResponseCheck
from gateway.upstreams.answers import Judge

HOOK: Final = b'{"appKey":"a","sessionId":"/1.2.3.4:5/6.7.8.9:10","status":"FINISH"}'
TRACE: Final = "Stack trace:\n#0 /srv/cdr.php(3): save()\n#1 {main}\n  thrown in /srv/cdr.php on line 3\n"
XDEBUG: Final = (
    "<br />\n<font size='1'><table class='xdebug-error xe-{kind}' dir='ltr' border='1' cellspacing='0'>\n"
    "<tr><th align='left' bgcolor='#f57900' colspan=\"5\"><span style='color: #fce94f'>( ! )</span> {label}: {text} in "
    "/srv/cdr.php on line <i>3</i></th></tr>\n</table></font>\n"
)

FATAL: Final = [
    "\nFatal error: Call to undefined function save() in /srv/cdr.php on line 3\n",
    "<br />\n<b>Fatal error</b>:  Call to undefined function save() in <b>/srv/cdr.php</b> on line <b>3</b><br />\n",
    "PHP Fatal error:  Uncaught Error: Call to undefined function save() in /srv/cdr.php:3\n" + TRACE,
    "[30-Nov-2026 07:00:00 Europe/Berlin] PHP Parse error:  syntax error, unexpected ';' in /srv/cdr.php on line 3\n",
    "\nParse error: syntax error, unexpected end of file in /srv/cdr.php on line 3\n",
    "<br />\n<b>Parse error</b>:  syntax error in <b>/srv/cdr.php</b> on line <b>3</b><br />\n",
    "\nCatchable fatal error: Argument 1 passed to save() must be an array in /srv/cdr.php on line 3\n",
    "\nRecoverable fatal error: Object of class A could not be converted to string in /srv/cdr.php on line 3\n",
    "\nFatal error: Uncaught exception 'PDOException' with message 'SQLSTATE[HY000] [2002] No such file'\n" + TRACE,
    "\nFatal error: Uncaught mysqli_sql_exception: Connection refused in /srv/cdr.php:3\n" + TRACE,
    "\nFatal error: Maximum execution time of 30 seconds exceeded in /srv/cdr.php on line 3\n",
    "\ufeff<br />\n<b>Fatal error</b>:  Uncaught Exception in /srv/cdr.php:3\n" + TRACE,
    "<p>ERROR: <br />\n<b>Fatal error</b>:  Out of memory in <b>/srv/cdr.php</b> on line <b>3</b><br />\n</p>",
    "<div>Fatal error: Uncaught Error: no in /srv/cdr.php:3</div>",
    XDEBUG.format(kind="fatal-error", label="Fatal error", text="Call to undefined function save()"),
    XDEBUG.format(kind="uncaught-exception", label="Fatal error", text="Uncaught Exception: no"),
    XDEBUG.format(kind="parse-error", label="Parse error", text="syntax error"),
    # what a script's own handler prints
    "PDOException: SQLSTATE[42S02]: Base table or view not found in /srv/cdr.php:3",
    "mysqli_sql_exception: Access denied for user 'wcs'@'localhost' in /srv/cdr.php:3",
    "Connection failed: SQLSTATE[HY000] [2002] Connection refused",
    "RuntimeException: disk full in /srv/cdr.php:3\nStack trace:\n#0 {main}",
    "Uncaught Acme\\Cdr\\NotWritten: disk full",
    'ERROR:  relation "cdr" does not exist\nLINE 1: INSERT INTO cdr VALUES (1)',
    'could not connect: FATAL:  password authentication failed for user "wcs"',
    # beside other output
    "OK\n\nFatal error: Call to undefined function save() in /srv/cdr.php on line 3\n",
    "\nFatal error: Call to undefined function save() in /srv/cdr.php on line 3\n{}",
    "\nFatal error: Call to undefined function save() in /srv/cdr.php on line 3\n" + HOOK.decode(),
    '{"status": "\nFatal error: Call to undefined function save() in /srv/cdr.php on line 3\n',
    "\nWarning: a in /srv/a.php on line 1\n\nFatal error: b in /srv/a.php on line 2\n",
    "<br />\n<b>Warning</b>:  a in <b>/a.php</b> on line <b>1</b><br /> <br /> <b>Fatal error</b>: b in <b>/a.php</b>",
    "\nWarning: a in /srv/a.php on line 1\nPDOException: SQLSTATE[HY000]: General error in /srv/cdr.php:3",
]  # fmt: skip
HARMLESS: Final = [
    "", " \r\n", "OK", "ok\n", "true", "null", "1", "[]", '"done"', "<html><body>It works!</body></html>",
    "stored without any fatal error", "no error", "0 fatal errors", "\ufeff", "\ufeffOK",
    "\nWarning: mysqli_connect(): (HY000/2002): Connection refused in /srv/cdr.php on line 3\n",
    "\nWarning: PDO::query(): SQLSTATE[42S02]: Base table not found in /srv/cdr.php on line 3\nOK",
    "<br />\n<b>Warning</b>:  SQLSTATE[42S02] PDOException in <b>/srv/cdr.php</b> on line <b>3</b><br />\n",
    "PHP Notice:  Undefined index: callee in /srv/cdr.php on line 3\n",
    "\nDeprecated: mysql_connect(): use mysqli or PDO in /srv/cdr.php on line 3\n",
    "\nStrict Standards: Only variables should be passed by reference in /srv/cdr.php on line 3\n",
    "\nWarning: trouble: PDOException: x in /srv/a.php:3\nStack trace:\n#0 {main} in /srv/a.php on line 5\nOK",
    "\nWarning: said 'x on line 3 of PDOException' in /srv/cdr.php on line 5\n",
    XDEBUG.format(kind="warning", label="Warning", text="PDOException: no"),
    "SQLSTATE[00000]: Success",
    json.dumps("\nFatal error: Uncaught PDOException"),
    json.dumps(["\nFatal error: x in /a.php on line 1", "SQLSTATE[HY000]"]),
    "\nNotice: a in /srv/a.php on line 1\n" + json.dumps({"note": "PHP Fatal error: PDOException"}),
    "[30-Nov-2026 07:00:00 UTC] PHP Notice:  a in /a.php on line 1\n" + json.dumps({"note": "<b>Fatal error</b>:"}),
]  # fmt: skip


@pytest.mark.parametrize("text", FATAL)
def test_a_script_that_died_says_so(text: str) -> None:
    assert reports_fatal(text.encode())
    assert reports_fatal(text.replace("\n", "\r\n").encode())


@pytest.mark.parametrize("text", HARMLESS)
def test_what_php_survived_and_what_is_said_in_other_words_is_not_fatal(text: str) -> None:
    assert not reports_fatal(text.encode())


@given(
    st.recursive(
        st.sampled_from(FATAL) | st.text() | st.none() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(FATAL) | st.text(), inner),
        max_leaves=8,
    )
)
def test_json_is_never_fatal_whatever_it_quotes(value: Any) -> None:
    assert not reports_fatal(json.dumps(value).encode())


@given(st.sampled_from(FATAL), st.text("ab \n<>{}:;", max_size=30), st.text("ab \n<>{}:;", max_size=30))
def test_a_report_is_found_whatever_stands_around_it(report: str, before: str, after: str) -> None:
    assert reports_fatal(f"{before}\n{report}\n{after}".encode())


@given(
    st.lists(st.sampled_from([b"Warning: ", b" on line 3", b"\n", b">", b"PHP ", b" ", b"Fatal error", b":", b"\xff"]))
)
def test_any_bytes_are_looked_through(parts: list[bytes]) -> None:
    assert reports_fatal(b"".join(parts)) in (True, False)


@pytest.mark.parametrize(
    "piece",
    [b"\nWarning: ", b" on line 3", b"\nFatal error", b"> ", b"Uncaught ", b"stack trace:", b"[30-Nov-", b"\n " * 9],
)
def test_a_mebibyte_of_anything_is_looked_through_at_once(piece: bytes) -> None:
    body = piece * (1024 * 1024 // len(piece)) + b" Uncaught"
    began = time.process_time()
    reports_fatal(body)
    assert time.process_time() - began < 3.0


@pytest.mark.parametrize("coding", [b"gzip", b"x-gzip", b"deflate", b" GZIP "])
@pytest.mark.parametrize("packed", [gzip.compress, zlib.compress, lambda data: zlib.compress(data)[2:-4]])
def test_a_coded_answer_is_looked_at_without_its_coding(coding: bytes, packed: Any) -> None:
    assert decompress(packed(FATAL[0].encode()), coding) == FATAL[0].encode()


def test_what_is_not_as_it_says_is_looked_at_as_it_is_and_a_bomb_only_so_far() -> None:
    assert decompress(b"OK", b"gzip") == decompress(b"OK", b"br") == b"OK"
    assert len(decompress(gzip.compress(bytes(64 * 1024 * 1024)), b"gzip")) == 256 * 1024


# --- as a verdict ---


def judged(status: int, body: bytes, check: Any = EventCheck.ANY, *headers: tuple[bytes, bytes]) -> Ruling | Failure:
    return Judge().judge(Answer(status, headers, body), HOOK, check)


@pytest.mark.parametrize("check", EventCheck)
@pytest.mark.parametrize("status", [200, 201, 202, 203, 204, 206, 207, 226, 299])
@pytest.mark.parametrize("text", [text for text in HARMLESS if not text.startswith(("\n", "["))])
def test_any_2xx_is_a_delivery_and_the_hook_s_own_body_goes_out(status: int, text: str, check: EventCheck) -> None:
    ruling = judged(status, text.encode(), check)
    assert isinstance(ruling, Ruling)
    assert (ruling.verdict, ruling.source, ruling.reason) == (Verdict.ALLOW, Source.BACKEND, Reason.OK)
    assert (ruling.status, ruling.body, ruling.content_type) == (200, HOOK, b"application/json")
    assert ruling.annotations is not None
    assert ruling.annotations.substituted


@pytest.mark.parametrize("check", EventCheck)
@pytest.mark.parametrize("body", [b"{}", b' {"a": 1.0}\n', HOOK, json.dumps({"note": FATAL[0]}).encode()])
@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_a_2xx_with_one_json_object_goes_on_byte_for_byte(status: int, body: bytes, check: EventCheck) -> None:
    ruling = judged(status, body, check)
    assert isinstance(ruling, Ruling)
    assert (ruling.status, ruling.body, ruling.annotations) == (200, body, None)


@pytest.mark.parametrize("check", EventCheck)
@pytest.mark.parametrize("status", [200, 201, 202, 204])
@pytest.mark.parametrize("text", FATAL)
def test_a_script_that_died_has_delivered_nothing(status: int, text: str, check: EventCheck) -> None:
    failure = judged(status, text.encode(), check)
    assert isinstance(failure, Failure)
    assert (failure.cause, failure.received_status) == (Cause.BAD_ANSWER, status)
    assert "/srv" not in failure.detail


def test_a_compressed_report_is_one_too() -> None:
    body = gzip.compress(FATAL[1].encode())
    assert isinstance(judged(200, body, EventCheck.ANY, (b"Content-Encoding", b"gzip")), Failure)
    assert isinstance(judged(200, gzip.compress(b"OK"), EventCheck.ANY, (b"Content-Encoding", b"gzip")), Ruling)


@pytest.mark.parametrize("check", EventCheck)
def test_no_other_status_is_a_delivery(check: EventCheck) -> None:
    for status in (199, 300, 302, 304, 400, 404, 500, 503):
        failure = judged(status, b"{}", check)
        assert isinstance(failure, Failure)
        assert failure.cause is Cause.ERROR_STATUS
    denied = judged(403, b"", check)
    assert isinstance(denied, Ruling)
    assert (denied.verdict, denied.reason) == (Verdict.REJECT, Reason.DENIED)


@pytest.mark.parametrize("check", ResponseCheck)
@pytest.mark.parametrize("status", [201, 202, 204])
def test_to_all_other_methods_only_200_is_a_yes(status: int, check: ResponseCheck) -> None:
    failure = judged(status, HOOK, check)
    assert isinstance(failure, Failure)
    assert failure.cause is Cause.ERROR_STATUS


def test_with_repair_the_backend_s_own_object_goes_out_of_an_answer_with_notices() -> None:
    body = b"\nNotice: Undefined index: x in /srv/cdr.php on line 3\n" + HOOK
    for check, repaired in ((EventCheck.ANY, None), (EventCheck.REPAIR, "before")):
        ruling = judged(200, body, check)
        assert isinstance(ruling, Ruling)
        assert is_json_object(ruling.body)
        assert ruling.annotations is not None
        assert ruling.annotations.repaired == repaired
        assert (ruling.annotations.substituted is None) is (repaired is not None)


@pytest.mark.parametrize("status", [200, 201, 204])
def test_an_answer_cut_short_is_no_delivery(status: int) -> None:
    cut = Failure(Cause.BAD_ANSWER, ProxyError.HTTP_RESPONSE_INCOMPLETE, "answer cut short", status)
    assert Judge().judge_failure(cut, EventCheck.ANY) is cut
    denied = Judge().judge_failure(cut._replace(received_status=403), EventCheck.ANY)
    assert isinstance(denied, Ruling)
