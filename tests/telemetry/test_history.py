"""Decisions on their way to the store: none is held up, none is lost unseen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec
import pytest

from gateway.model.decision import Decision
from gateway.policy.history import Bodies, HistorySettings
from gateway.policy.shadow import ShadowResult
from gateway.store.decisions import (
    DecodedDecision,
    KeptDecision,
    Preparer,
    decode_decision,
    decode_shadow,
    encode_kept,
)
from gateway.telemetry import history
from gateway.telemetry.history import HistoryRecorder, Listener
from tests.store.decided import TIMED_OUT, decided

SETTINGS = HistorySettings()


def _decoded(data: bytes) -> DecodedDecision:
    """A decision that was sent, as the store gives it back."""
    prepared = Preparer((), None).prepare(data)
    return decode_decision(encode_kept(msgspec.msgpack.decode(prepared.encoded, type=KeptDecision)))


class Sink:
    """What the store's client is for the recorder: takes messages, or drops them."""

    def __init__(self) -> None:
        self.takes = True
        self.messages: list[list[str]] = []
        self.revisions: set[str] = set()
        self.shadows: list[tuple[str, float, ShadowResult]] = []
        self.bytes = 0

    def send_decisions(self, decisions: Sequence[bytes]) -> bool:
        if self.takes:
            read = [_decoded(data) for data in decisions]
            self.messages.append([each.decision.request_id for each in read])
            self.revisions |= {each.revision for each in read}
            self.bytes += sum(map(len, decisions))
        return self.takes

    def send_shadow(self, request_id: str, time: float, result: bytes) -> bool:
        self.shadows.append((request_id, time, decode_shadow(result)))
        return True

    @property
    def sent(self) -> list[str]:
        return [request_id for message in self.messages for request_id in message]


class Recording:
    """A recorder that is on, with what it has done."""

    def __init__(self, settings: HistorySettings | None = SETTINGS) -> None:
        self.sink = Sink()
        self.dropped = 0
        self.listeners: list[Listener | None] = []
        self.recorder = HistoryRecorder(self.sink, self._drop, self.listeners.append)
        self.recorder.configure(settings, "r1")

    def _drop(self, count: int) -> None:
        self.dropped += count

    def record(self, *numbers: int, make: Callable[[int], Decision] = decided) -> None:
        for number in numbers:
            self.recorder.record(make(number))


def ids(*numbers: int) -> list[str]:
    return [f"request-{number}" for number in numbers]


async def test_what_is_gathered_is_sent_a_moment_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "SEND_AFTER", 0.01)
    recording = Recording()
    recording.record(1, 2)
    assert recording.sink.sent == []
    assert "2 to be sent" in repr(recording.recorder)
    while not recording.sink.sent:
        await asyncio.sleep(0.005)
    assert recording.sink.messages == [ids(1, 2)]
    assert recording.sink.revisions == {"r1"}
    recording.record(3)
    while len(recording.sink.messages) < 2:
        await asyncio.sleep(0.005)
    assert recording.sink.sent == ids(1, 2, 3)


async def test_many_are_sent_at_once_and_large_ones_in_small_messages() -> None:
    recording = Recording(SETTINGS._replace(bodies=Bodies.ALL))
    recording.record(*range(512))
    assert len(recording.sink.sent) == 512
    recording.record(*range(600, 632), make=lambda n: decided(n, fields={"sdp": "x" * 50_000}))
    assert len(recording.sink.messages) > 5
    recording.recorder.flush()
    assert recording.sink.sent == ids(*range(512), *range(600, 632))


async def test_what_the_store_does_not_take_waits_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "SEND_AFTER", 0.01)
    recording = Recording()
    recording.sink.takes = False
    recording.record(*range(300))
    recording.recorder.flush()
    assert "300 to be sent" in repr(recording.recorder)
    recording.sink.takes = True
    while not recording.sink.sent:
        await asyncio.sleep(0.005)
    assert recording.sink.sent == ids(*range(300))
    assert recording.dropped == 0


async def test_what_is_too_much_to_wait_is_dropped_and_counted_the_newest_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history, "MAX_UNSENT", 100_000)
    recording = Recording()
    recording.sink.takes = False
    recording.record(*range(1000))
    recording.recorder.flush()
    assert 0 < recording.dropped < 1000
    recording.sink.takes = True
    recording.record(2000)
    recording.recorder.flush()
    waited = recording.sink.sent[:-1]
    assert len(waited) == 1000 - recording.dropped
    assert waited == ids(*range(len(waited)))
    assert recording.sink.sent[-1:] == ids(2000)


async def test_what_is_left_at_the_end_is_counted() -> None:
    recording = Recording()
    recording.sink.takes = False
    recording.record(*range(70))
    recording.recorder.close()
    assert recording.dropped == 70
    assert repr(recording.recorder) == "<HistoryRecorder 0 to be sent>"


async def test_it_is_no_listener_while_no_history_is_configured() -> None:
    recording = Recording(None)
    recorder = recording.recorder
    assert recording.listeners == [None]
    assert repr(recorder) == "<HistoryRecorder off>"
    recorder.record_shadow("request-1", ShadowResult("new", "match", 200, "", 1.0, ()), decided(1))
    assert recording.sink.shadows == []
    change = recorder.prepare(SETTINGS)
    assert recording.listeners == [None]
    change.commit()
    assert recording.listeners[-1] == recorder.record
    change.revert()
    assert recording.listeners[-1] is None


async def test_a_reload_sends_what_was_decided_before_by_the_old_settings() -> None:
    recording = Recording(SETTINGS._replace(bodies=Bodies.ALL))
    recording.record(1, make=lambda n: decided(n, fields={"sdp": "x" * 10_000}))
    recording.recorder.prepare(SETTINGS, "r2").commit()
    assert recording.sink.sent == ids(1)
    assert recording.sink.revisions == {"r1"}
    assert recording.sink.bytes > 10_000
    recording.record(2, make=lambda n: decided(n, fields={"sdp": "x" * 10_000}))
    recording.recorder.configure(None)
    assert recording.sink.sent == ids(1, 2)
    assert recording.sink.bytes < 20_000


async def test_results_of_shadow_copies_are_sent_with_the_time_of_their_hooks() -> None:
    recording = Recording()
    decision, result = decided(1, ruling=TIMED_OUT), ShadowResult("new", "error", None, "e" * 5000, 1.0, ())
    recording.recorder.record_shadow(decision.request_id, result, decision)
    ((request_id, time, sent),) = recording.sink.shadows
    assert (request_id, time) == (decision.request_id, decision.time)
    assert len(sent.error) < 600


async def test_a_decision_that_cannot_be_encoded_takes_no_other_with_it(caplog: pytest.LogCaptureFixture) -> None:
    recording = Recording()
    recording.record(1, 2, make=lambda n: decided(n, duration=object() if n == 1 else 0.1))
    recording.recorder.flush()
    assert recording.sink.sent == ids(2)
    assert recording.dropped == 1
    assert "its hook was answered all the same" in caplog.text
