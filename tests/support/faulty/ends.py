"""Backends that hang, leave or dawdle amid a hook, or spoil the connection for the next one."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.faulty.answers import bind, head, one_by_one, reply, surplus
from tests.support.faulty.cases import (
    BAD_ANSWER,
    ERROR_STATUS,
    OK,
    TIMEOUT,
    UNREACHABLE,
    WRONG_ANSWER,
    End,
    Expected,
    Pause,
    Step,
    Turn,
    add_case,
    right_answer,
)

# fmt: off
# Tables: a case is its name, a sentence, what is expected, and what is sent.


def silences_and_ends() -> None:
    """Backends that hang, leave or dawdle."""
    add_case("hang", "Takes the request and never answers.", TIMEOUT, 0, lambda t: [End.SILENCE])
    add_case("hang_before_body", "Never reads the body, never answers.", TIMEOUT, 0, lambda t: [End.SILENCE],
             early=True)
    add_case("late_answer", "The right answer after 1.8 s, when nobody waits for it any more.", TIMEOUT, 0,
             lambda t: [Pause(1.8), reply(t.right)])
    add_case("reset_before_body", "Resets when the head is in, before it reads the body.", UNREACHABLE, 0,
             lambda t: [End.RESET], early=True)
    add_case("reset_before_answer", "Resets when the request is in.", UNREACHABLE, 0, lambda t: [End.RESET])
    add_case("reset_during_head", "Half a head, then a reset.", UNREACHABLE, 0,
             lambda t: [b"HTTP/1.1 200 OK\r\nContent-Le", Pause(0.02), End.RESET], also=(BAD_ANSWER,))
    add_case("reset_during_body", "Half the body, then a reset.", UNREACHABLE, 0,
             lambda t: [reply(t.right)[:-10], Pause(0.02), End.RESET], also=(BAD_ANSWER,))
    add_case("reset_after_answer", "A right answer, then a reset.", OK, 0,
             lambda t: [reply(t.right), Pause(0.02), End.RESET])
    add_case("close_without_a_byte", "Closes when the request is in.", UNREACHABLE, 0, lambda t: [End.CLOSE])
    add_case("half_head_close", "Half a head, then a close.", BAD_ANSWER, 0,
             lambda t: [b"HTTP/1.1 200 OK\r\nContent-Le", End.CLOSE], also=(UNREACHABLE,))
    add_case("half_status_close", "Half a status line, then a close.", BAD_ANSWER, 0,
             lambda t: [b"HTTP/1.1 2", End.CLOSE], also=(UNREACHABLE,))
    add_case("half_head_silence", "Half a head, then silence.", TIMEOUT, 0,
             lambda t: [b"HTTP/1.1 200 OK\r\nContent-Le", End.SILENCE])
    add_case("half_body_close", "Half the body, then a close.", BAD_ANSWER, 0,
             lambda t: [reply(t.right)[:-10], End.CLOSE])
    add_case("half_body_silence", "Half the body, then silence.", TIMEOUT, 0,
             lambda t: [reply(t.right)[:-10], End.SILENCE])
    add_case("half_body_until_eof", "Half the body of an answer without a length, then a close.", BAD_ANSWER,
             0, lambda t: [head() + t.right[:-10], End.CLOSE])
    add_case("no_end", "The whole body of an answer without a length, but the connection stays open.", TIMEOUT,
             0, lambda t: [head() + t.right, End.SILENCE])
    add_case("trickle_head", "One byte of the answer every 100 ms, far past the budget.", TIMEOUT, 0,
             lambda t: one_by_one(reply(t.right), 0.1))
    add_case("trickle_body", "A head at once, then one byte of the body every 100 ms.", TIMEOUT, 0, _trickle_body)
    add_case("trickle_in_time", "Three bytes 100 ms apart, then the rest, within the budget.", OK, 1,
             _trickle_in_time)
    add_case("answer_before_body", "The answer when the head is in, before the body is read.", OK, 1,
             lambda t: [reply(t.right)], early=True, body=lambda _: right_answer(b""))
    add_case("error_before_body",
             "413 with Connection: close when the head is in, and a close with the body unread.", ERROR_STATUS,
             0, lambda t: [reply(b"", b"Connection: close", start=b"HTTP/1.1 413 Too Large"), End.CLOSE],
             early=True, also=(UNREACHABLE,))


def _trickle_body(turn: Turn) -> Iterator[Step]:
    whole = reply(turn.right)
    yield whole[: -len(turn.right)]
    yield from one_by_one(turn.right, 0.1)


def _trickle_in_time(turn: Turn) -> Iterator[Step]:
    whole = reply(turn.right)
    yield from one_by_one(whole[:3], 0.1)
    yield whole[3:]


def later_hooks() -> None:
    """What happens to the hook after: a connection that is stale, or that still holds something."""
    add_case("idle_two_answers", "Two answers in one segment.", OK, 0,
             lambda t: [surplus(reply(t.right)), End.SILENCE], also=(BAD_ANSWER,))
    add_case("idle_unsolicited", "The right answer, and 50 ms later another hook's 200.", OK, 0,
             lambda t: [reply(t.right), Pause(0.05), reply(WRONG_ANSWER), End.SILENCE])
    add_case("idle_408", "The right answer, and 50 ms later a 408 for idleness and a close.", OK, 0,
             lambda t: [reply(t.right), Pause(0.05), reply(b"", start=b"HTTP/1.1 408 Idle"), End.CLOSE])
    add_case("idle_interim", "The right answer, and 50 ms later the interim answer 100.", OK, 0,
             lambda t: [reply(t.right), Pause(0.05), head(start=b"HTTP/1.1 100 Continue"), End.SILENCE])
    add_case("idle_byte", "The right answer, and 50 ms later one byte.", OK, 0,
             lambda t: [reply(t.right), Pause(0.05), b"H", End.SILENCE])
    add_case("idle_close", "The right answer, and a close 50 ms later.", OK, 0,
             lambda t: [reply(t.right), Pause(0.05), End.CLOSE])
    add_case("idle_reset", "The right answer, and a reset 50 ms later.", OK, 0,
             lambda t: [reply(t.right), Pause(0.05), End.RESET])
    on_reuse: dict[str, tuple[str, Step, tuple[Expected, ...]]] = {
        "close_after_idle": ("closes without a byte", End.CLOSE, (OK,)),
        "reset_after_idle": ("resets without a byte", End.RESET, (OK, UNREACHABLE)),
        "hang_after_idle": ("hangs", End.SILENCE, (TIMEOUT,)),
        "half_head_after_idle": ("breaks off in the head", b"HTTP/1.1 2", (BAD_ANSWER, UNREACHABLE)),
    }
    for name, (doc, step, second) in on_reuse.items():
        add_case(name, f"Answers a connection's first request; at the second it {doc}.", OK, 1,
                 bind(step, lambda step, t: [reply(t.right)] if t.request.turn == 1 else [step, End.CLOSE]),
                 second=second)
    add_case("flaps", "Answers every other request of the case with 500.", OK, 1,
             lambda t: [reply(t.right, start=b"HTTP/1.1 200 OK" if t.nth % 2 else b"HTTP/1.1 500 Oops")],
             second=(ERROR_STATUS,))
