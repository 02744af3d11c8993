"""The log's writer, for whom nobody waits."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.telemetry.log import MAX_BUFFER, LogWriter
from tests.support.gateways import ROOT, wait_until
from tests.telemetry.log.lines import Sink


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    ends = [reading, writing]
    try:
        yield reading, writing
    finally:
        for end in ends:
            with contextlib.suppress(OSError):
                os.close(end)


class Count:
    """Counts dropped lines, from whichever thread."""

    def __init__(self) -> None:
        self.lines = 0
        self._lock = threading.Lock()

    def __call__(self, lines: int) -> None:
        with self._lock:
            self.lines += lines


def read_all(fd: int, into: bytearray) -> None:
    while data := os.read(fd, 65536):
        into += data


BATCH = b"".join(b"%04d " % number + b"x" * 95 + b"\n" for number in range(640))
"""640 lines of 101 bytes, 64 kB."""


@pytest.mark.parametrize("blocking", [True, False])
def test_a_pipe_that_nobody_reads_holds_nobody_up_and_every_line_is_either_written_or_counted(blocking: bool) -> None:
    dropped = Count()
    batches = 2 * MAX_BUFFER // len(BATCH)
    with pipe() as (reading, writing):
        os.set_blocking(writing, blocking)
        writer = LogWriter(writing, dropped)
        for _ in range(batches):  # returns only because nobody waits for the pipe
            writer.write(BATCH)
        assert 0 < dropped.lines < batches * 640
        received = bytearray()
        reader = threading.Thread(target=read_all, args=(reading, received), daemon=True)
        reader.start()
        writer.close(20.0)
        os.close(writing)
        reader.join(20.0)
        assert received.count(b"\n") + dropped.lines == batches * 640
        assert received == BATCH * (len(received) // len(BATCH))
        assert len(received) <= MAX_BUFFER + 65536


def test_closing_does_not_wait_for_a_pipe_that_nobody_reads() -> None:
    with pipe() as (_, writing):
        writer = LogWriter(writing)
        for _ in range(10):
            writer.write(BATCH)
        writer.close(0.05)  # returns; the thread is a daemon and holds no exit up
        dropped = Count()
        writer.on_drop = dropped
        writer.write(BATCH)
        assert dropped.lines == 640


def assert_gives_up_and_counts(fd: int) -> None:
    dropped = Count()
    writer = LogWriter(fd, dropped)
    for _ in range(20):
        writer.write(BATCH)
    writer.close(20.0)
    assert dropped.lines == 20 * 640


def test_a_pipe_whose_reader_has_gone_is_given_up_and_counted() -> None:
    with pipe() as (reading, writing):
        os.close(reading)
        assert_gives_up_and_counts(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_given_up_and_counted() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        assert_gives_up_and_counts(fd)
    finally:
        os.close(fd)


def test_a_reader_that_comes_back_gets_whole_lines_again() -> None:
    dropped = Count()
    with pipe() as (reading, writing):
        writer = LogWriter(writing, dropped)
        received = bytearray()
        for number in range(30):
            writer.write(b"line %d\n" % number)
            if number % 10 == 9:
                assert wait_until(lambda: _read_some(reading, received).endswith(b"\n"))
        writer.close(20.0)
    assert received.splitlines() == [b"line %d" % number for number in range(30)]
    assert dropped.lines == 0


def _read_some(fd: int, into: bytearray) -> bytearray:
    into += os.read(fd, 65536)
    return into


DISK_THAT_FILLS = """
import os, resource, signal, sys, time
from gateway.telemetry.log import LogWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
lost = []
writer = LogWriter(fd, lost.append)
for limit in (250, 100_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for number in range(10):
        writer.write(b'{"number": %6d, "text": "%s"}\\n' % (number, b"x" * 60))
    for _ in range(500):
        if sum(lost) >= 8:  # two lines have room
            break
        time.sleep(0.02)
writer.close(20.0)
print(sum(lost))
"""


def test_after_a_disk_that_was_full_for_a_while_lines_begin_on_a_line_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-c", DISK_THAT_FILLS, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=30.0
    )
    assert done.returncode == 0, done.stderr
    whole = 0
    for line in path.read_bytes().split(b"\n"):
        with contextlib.suppress(ValueError):
            whole += isinstance(json.loads(line), dict)
    assert whole + int(done.stdout) == 20


def test_a_writer_that_was_closed_counts_what_still_comes(sink: Sink) -> None:
    sink.writer.close()
    sink.writer.write(b"late\nlater\n")
    assert sink.dropped == 2
