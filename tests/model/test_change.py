"""Several changes are made as one, or none of them is."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import pytest

from gateway.model.change import CannotPrepare, Change, Changes, failure_reason, prepare
from gateway.model.keep_going import KeepGoing


class Noting(Change):
    """Notes what is done with it, and fails where it is told to."""

    def __init__(self, name: str, done: list[str], fails_at: str = "") -> None:
        self._name = name
        self._done = done
        self._fails_at = fails_at

    def _do(self, what: str) -> None:
        self._done.append(f"{what} {self._name}")
        if what == self._fails_at:
            raise MemoryError

    def commit(self) -> None:
        self._do("commit")

    def revert(self) -> None:
        self._do("revert")

    async def settle(self) -> None:
        self._do("settle")

    async def discard(self) -> None:
        self._do("discard")


def preparing(change: Change) -> Callable[[], Awaitable[Change]]:
    async def preparation() -> Change:
        return change

    return preparation


async def test_all_are_prepared_then_committed_then_settled_in_order() -> None:
    done: list[str] = []
    changes = await prepare(*(preparing(Noting(name, done)) for name in "abc"))
    assert done == []
    changes.commit()
    await changes.settle()
    assert done == ["commit a", "commit b", "commit c", "settle a", "settle b", "settle c"]


async def test_what_is_prepared_is_discarded_where_another_cannot_be() -> None:
    done: list[str] = []

    async def failing() -> Change:
        raise CannotPrepare("no")

    with pytest.raises(CannotPrepare, match="no"):
        await prepare(preparing(Noting("a", done)), preparing(Noting("b", done)), failing)
    assert done == ["discard b", "discard a"]


@pytest.mark.parametrize("failing", "abc")
def test_a_commit_that_fails_takes_back_itself_and_all_before_it(failing: str) -> None:
    done: list[str] = []
    changes = Changes(Noting(name, done, "commit" if name == failing else "") for name in "abc")
    with pytest.raises(MemoryError):
        changes.commit()
    begun = "abc"[: "abc".index(failing) + 1]
    assert done == [f"commit {name}" for name in begun] + [f"revert {name}" for name in reversed(begun)]


def test_a_change_that_cannot_go_back_keeps_no_other_from_it(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    changes = Changes([Noting("a", done), Noting("b", done, "revert"), Noting("c", done, "commit")])
    with pytest.raises(MemoryError):
        changes.commit()
    assert done[-3:] == ["revert c", "revert b", "revert a"]
    assert "could not be reverted" in caplog.text


@pytest.mark.parametrize("what", ["settle", "discard"])
async def test_cleaning_up_goes_on_past_what_fails_and_says_so(what: str, caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    changes = Changes(Noting(name, done, what) for name in "ab")
    await (changes.settle() if what == "settle" else changes.discard())
    assert sorted(done) == [f"{what} a", f"{what} b"]
    assert caplog.text.count("cleaning up after a reload failed") == 2


def test_a_reason_says_what_an_operator_can_mend_and_nothing_that_might_be_a_secret() -> None:
    assert failure_reason(OSError(2, "No such file or directory", "/x/cert.pem")).endswith("'/x/cert.pem'")
    assert "memory" in failure_reason(MemoryError())
    assert "in time" in failure_reason(TimeoutError())
    assert "hunter2" not in failure_reason(KeyError("hunter2"))
    assert "KeyError" in failure_reason(KeyError("hunter2"))


def test_a_loop_outlives_what_its_turns_raise_and_says_it_once_until_one_goes_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    keep_going = KeepGoing("the look at the clock")
    outcomes = [None, ValueError("a"), ValueError("b"), KeyError("c"), None, ValueError("d")]
    with caplog.at_level(logging.ERROR):
        for outcome in outcomes:
            with keep_going:
                if outcome is not None:
                    raise outcome
    told = [type(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert told == [ValueError, KeyError, ValueError]


def test_what_ends_a_task_on_purpose_ends_its_loop() -> None:
    with pytest.raises(KeyboardInterrupt), KeepGoing("it"):
        raise KeyboardInterrupt
