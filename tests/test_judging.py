"""What a backend's answer means, whatever was answered before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.hooks import is_json_object
from gateway.transport import Answer
from gateway.upstreams.judging import DENIED, judge
from gateway.verdicts import Cause, Failure, Ruling, Verdict

HOOK = b'{"appKey":"defaultApp","callId":"1"}'
BODIES = st.sampled_from(
    (b"", b"{}", b"{ }", b'{"a":1}', b'{"a":1', b'{"a":2}', b"[]", b"\xef\xbb\xbf{}", b"<html>", b'{"a":"\xff"}', HOOK)
)
ANSWERS = st.builds(Answer, st.sampled_from((200, 200, 200, 403, 500)), st.just(()), BODIES)


@given(st.lists(ANSWERS))
def test_an_answer_is_judged_as_if_it_were_the_first(answers: list[Answer]) -> None:
    for answer in answers:
        result = judge(answer, HOOK)
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
    rulings = [judge(answer, HOOK) for answer in answers]
    assert isinstance(rulings[0], Ruling)
    assert all(ruling is rulings[0] for ruling in rulings)
