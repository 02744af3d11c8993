"""What the gateway logs that is not about hooks: a line each, and the same message not too often."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.model.text import shorten
from gateway.telemetry.log import REPEATS, REPEATS_PER, configure_logging
from tests.telemetry.log.lines import Sink, naughty_strings


@pytest.fixture
def loggers() -> Iterator[None]:
    """All that configure_logging changes is put back."""
    named = [logging.getLogger(name) for name in (None, "uvicorn", "uvicorn.error", "uvicorn.access", "asyncio")]
    named.append(logging.getLogger("httpx"))
    before = [(logger, logger.level, list(logger.handlers), logger.propagate) for logger in named]
    yield
    for logger, level, handlers, propagate in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


@pytest.mark.usefixtures("loggers")
def test_a_record_is_one_json_line_with_its_fields(sink: Sink) -> None:
    configure_logging(sink.writer, level="info", console=False)
    logging.getLogger("gateway.x").warning("a %s\r\nb", "\x1b", extra={"fields": {"event": "ready", "path": Path("/")}})
    (line,) = sink.lines()
    read = json.loads(line)
    assert read.pop("ts").endswith("Z")
    assert read == {
        "level": "warning",
        "logger": "gateway.x",
        "message": "a \x1b\r\nb",
        "event": "ready",
        "path": "/",
    }


@pytest.mark.usefixtures("loggers")
def test_an_exception_is_one_bounded_json_line(sink: Sink) -> None:
    configure_logging(sink.writer, level="info", console=False)
    log_an_exception("x\n" * 100_000)
    (line,) = sink.lines()
    assert "ValueError" in json.loads(line)["exception"]
    assert len(line) < 32 * 1024


@pytest.mark.usefixtures("loggers")
def test_on_a_console_an_exception_is_bounded_and_moves_no_cursor(sink: Sink) -> None:
    configure_logging(sink.writer, level="info", console=True)
    log_an_exception("\x1b[2J\r\x07" + "y" * 100_000)
    lines = sink.lines()
    assert any(b"ValueError" in line for line in lines)
    assert [line for line in lines if not line.decode("utf-8").isprintable()] == []
    assert sum(map(len, lines)) < 32 * 1024


def log_an_exception(text: str) -> None:
    try:
        raise ValueError(text)
    except ValueError:
        logging.getLogger("gateway.x").exception("it broke")


# --- the same message, too often ---


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def configured(sink: Sink) -> Clock:
    """Logging into the sink; the time by which repeats are counted."""
    configure_logging(sink.writer, level="info", console=False)
    clock = Clock()
    (brake,) = logging.getLogger().handlers[0].filters
    vars(brake)["_clock"] = clock
    return clock


@pytest.mark.usefixtures("loggers")
def test_a_message_that_comes_too_often_is_held_back_and_others_are_not(sink: Sink) -> None:
    configured(sink)
    logger = logging.getLogger("gateway.x")
    for number in range(10 * REPEATS):
        logger.warning("no file descriptor for %d", number)
    logger.warning("something else")
    logger.error("no file descriptor for %d", 1)
    logging.getLogger("gateway.y").warning("no file descriptor for %d", 1)
    assert len(sink.lines()) == REPEATS + 3


@pytest.mark.usefixtures("loggers")
@pytest.mark.parametrize("argument", [7, "no number"])
def test_how_often_a_message_was_held_back_is_told_when_it_comes_again(sink: Sink, argument: object) -> None:
    clock = configured(sink)
    logger = logging.getLogger("gateway.x")
    for _ in range(REPEATS + 5):
        logger.warning("%d of 100%%", 1)
    clock.now += REPEATS_PER
    logger.warning("%d of 100%%", argument)  # one whose argument does not fit must not raise where it is logged
    logger.warning("%d of 100%%", 8)
    messages = [json.loads(line)["message"] for line in sink.lines()[REPEATS:]]
    held = "(and 5 times more that were not logged)"
    assert messages == ([f"7 of 100% {held}"] if argument == 7 else []) + ["8 of 100%"]


@pytest.mark.usefixtures("loggers")
@pytest.mark.parametrize("console", [False, True])
def test_a_path_that_is_not_utf_8_does_not_lose_its_line(sink: Sink, console: bool) -> None:
    configure_logging(sink.writer, level="info", console=console)
    logging.getLogger("gateway.x").warning("%s is not watched", os.fsdecode(b"/etc/\xff.yaml"))
    (line,) = sink.lines()
    assert b"is not watched" in line
    assert line.decode("utf-8").isprintable()
    assert sink.dropped == 0


@pytest.mark.usefixtures("loggers")
@pytest.mark.parametrize("console", [False, True])
def test_hostile_text_in_messages_and_fields_makes_one_line_each(sink: Sink, console: bool) -> None:
    configure_logging(sink.writer, level="info", console=console)
    strings = naughty_strings()
    for number, text in enumerate(strings):  # from a logger each: the same message too often is held back
        extra = {"fields": {"request_id": shorten(text)}}
        logging.getLogger(f"gateway.x.{number}").info("%s", text, extra=extra)
    lines = sink.lines()
    assert len(lines) == len(strings)
    for line in lines:
        if console:
            assert line.decode("utf-8").isprintable()
        else:
            assert "message" in json.loads(line)
        assert len(line) < 32 * 1024


@pytest.mark.usefixtures("loggers")
def test_a_record_that_cannot_be_made_is_counted_and_nothing_else(sink: Sink) -> None:
    configure_logging(sink.writer, level="info", console=False)
    logging.getLogger("gateway.x").info("%d", "no number")
    assert sink.lines() == []
    assert sink.dropped == 1


@pytest.mark.usefixtures("loggers")
@pytest.mark.parametrize(("level", "expected"), [("debug", 3), ("info", 2), ("warning", 1), ("error", 0)])
def test_the_level_is_kept_and_the_server_s_own_chatter_stays_at_warnings(
    sink: Sink, level: str, expected: int
) -> None:
    configure_logging(sink.writer, level=level, console=False)
    logger = logging.getLogger("gateway.x")
    logger.debug("d")
    logger.info("i")
    logger.warning("w")
    for name in ("uvicorn.error", "uvicorn.access", "asyncio", "httpx"):
        logging.getLogger(name).info("chatter")
    assert len(sink.lines()) == expected
