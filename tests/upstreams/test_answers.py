"""What a backend's answer means, independently of earlier answers."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.client import Answer
from gateway.model.hooks import is_json_object
from gateway.model.verdicts import Cause, Failure, ProxyError, Ruling, Verdict
from gateway.policy.repair import ResponseCheck
from gateway.upstreams.answers import DENIED, Judge

HOOK = b'{"appKey":"defaultApp","callId":"1"}'
BODIES = st.sampled_from(
    (b"", b"{}", b"{ }", b'{"a":1}', b'{"a":1', b'{"a":2}', b"[]", b"\xef\xbb\xbf{}", b"<html>", b'{"a":"\xff"}', HOOK)
)
ANSWERS = st.builds(Answer, st.sampled_from((200, 200, 200, 403, 500)), st.just(()), BODIES)


@given(st.lists(ANSWERS))
def test_an_answer_is_judged_as_if_it_were_the_first(answers: list[Answer]) -> None:
    judge = Judge()
    for answer in answers:
        result = judge.judge(answer, HOOK)
        if answer.status == 403:
            assert result is DENIED
        elif answer.status == 200 and is_json_object(answer.body):
            assert isinstance(result, Ruling)
            assert (result.verdict, result.body, result.error) == (Verdict.ALLOW, answer.body, "")
        else:
            assert isinstance(result, Failure)
            assert result.cause is (Cause.BAD_ANSWER if answer.status == 200 else Cause.ERROR_STATUS)


def test_of_a_backend_that_always_says_the_same_one_answer_is_kept() -> None:
    answers = [Answer(200, (), bytes(bytearray(b'{"status":"ok"}'))) for _ in range(3)]
    assert len({id(answer.body) for answer in answers}) == 3
    judge = Judge()
    rulings = [judge.judge(answer, HOOK) for answer in answers]
    assert isinstance(rulings[0], Ruling)
    assert all(ruling is rulings[0] for ruling in rulings)


# --- bodies with a content coding ---


def coded(body: bytes, *codings: bytes) -> Answer:
    return Answer(200, tuple((b"Content-Encoding", coding) for coding in codings), body)


@pytest.mark.parametrize("check", ResponseCheck)
@pytest.mark.parametrize("codings", [[b"gzip"], [b"X-GZIP"], [b"identity", b"br"], [b"identity , deflate"], [b" zstd"]])
def test_a_coded_body_is_a_bad_answer_whatever_the_check_and_says_so(
    check: ResponseCheck, codings: list[bytes]
) -> None:
    for content in (HOOK, b"OK"):
        result = Judge().judge(coded(gzip.compress(content), *codings), HOOK, check)
        assert isinstance(result, Failure)
        assert (result.cause, result.received_status) == (Cause.BAD_ANSWER, 200)
        assert result.proxy_error is ProxyError.HTTP_RESPONSE_CONTENT_CODING
        assert "a compressed body, unasked" in result.detail


@pytest.mark.parametrize("codings", [[], [b""], [b"identity"], [b"Identity, "], [b"identity", b"identity"]])
def test_without_a_coding_off_takes_any_body(codings: list[bytes]) -> None:
    result = Judge().judge(coded(b"OK", *codings), HOOK, ResponseCheck.OFF)
    assert isinstance(result, Ruling)
    assert (result.verdict, result.body) == (Verdict.ALLOW, b"OK")


@pytest.mark.parametrize("check", ResponseCheck)
def test_a_json_object_is_a_verdict_whatever_its_label_says(check: ResponseCheck) -> None:
    """PHP that sets Content-Encoding: UTF-8, or gzip without compressing: these bytes are the object that it meant."""
    for coding in (b"UTF-8", b"gzip"):
        result = Judge().judge(coded(b'{"a":3}', coding), HOOK, check)
        assert isinstance(result, Ruling)
        assert (result.verdict, result.body) == (Verdict.ALLOW, b'{"a":3}')
