"""The configuration's file is read when it may have changed and stands still, and only then."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from gateway.config import digest_at
from gateway.server import watch
from gateway.server.watch import Watched, changes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text("first")
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read, in turn."""
    read: list[Path] = []

    def noting(path: Path) -> str | None:
        read.append(path)
        return digest_at(path)

    monkeypatch.setattr(watch, "digest_at", noting)
    return read


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is long after the file was changed."""
    now = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: now)


def told(watched: Watched) -> str | None:
    """What two looks at a file that stands still tell."""
    watched.look()
    return watched.look()


@pytest.mark.usefixtures("settled")
def test_a_file_that_stays_as_it_is_is_read_once(path: Path, reads: list[Path]) -> None:
    watched = Watched(path)
    assert told(watched) == digest_at(path)
    assert [watched.look() for _ in range(5)] == [None] * 5
    assert reads == [path]


@pytest.mark.usefixtures("settled")
def test_what_else_is_written_beside_it_has_nothing_read(path: Path, reads: list[Path]) -> None:
    watched = Watched(path)
    told(watched)
    for number in range(5):
        (path.parent / f"gateway-{number}.log").write_text("a line\n")
        assert watched.look() is None
    assert reads == [path]


def test_a_file_that_is_being_written_is_not_read(path: Path, reads: list[Path]) -> None:
    watched = Watched(path)
    for number in range(5):
        with path.open("a") as file:
            file.write(f"line {number}\n")
        assert watched.look() is None
    assert reads == []
    assert watched.look() == digest_at(path)


@pytest.mark.parametrize("how", ["renamed into place", "written in place", "a link swapped", "the mode"])
@pytest.mark.usefixtures("settled")
def test_every_way_of_change_has_it_read_again(path: Path, how: str) -> None:
    link = path.with_name("link.yaml")
    link.symlink_to(path)
    watched = Watched(link)
    before = told(watched)
    status = path.stat()
    other = path.with_name("other.yaml")
    other.write_text("other")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    match how:
        case "renamed into place":
            other.replace(path)
        case "written in place":
            path.write_text("other")
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        case "a link swapped":
            new = path.with_name("new.yaml")
            new.symlink_to(other)
            new.replace(link)
        case _:
            path.chmod(0o600)
    after = told(watched)
    assert after == digest_at(link)
    assert (after == before) == (how == "the mode")


def test_a_change_within_the_grain_of_the_file_systems_clock_is_seen(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns()
    monkeypatch.setattr(watch, "_stamp_of", lambda _: (now, now, 5, 1, 1))  # a clock that stands still
    watched = Watched(path)
    assert told(watched) == digest_at(path)
    path.write_text("other")
    assert watched.look() == digest_at(path)


def test_a_file_that_is_gone_for_a_while_tells_nothing_and_is_read_when_it_is_back(path: Path) -> None:
    watched = Watched(path)
    before = told(watched)
    path.unlink()
    assert [watched.look() for _ in range(3)] == [None] * 3
    path.write_text("first")
    assert told(watched) == before


def test_what_can_never_be_read_is_told_with_its_reason(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)
    reason = told(Watched(path))
    assert reason is not None
    assert "symbolic link" in reason


async def test_changes_tells_of_each_text_that_is_not_in_force_until_it_is_stopped(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_EVERY", 0.001)
    stop = asyncio.Event()
    in_force = [digest_at(path)]
    seen = []
    texts = iter(["second", "third"])
    path.write_text(next(texts))
    async for _ in changes(path, lambda: in_force[-1], stop):
        in_force.append(digest_at(path))
        seen.append(path.read_text())
        text = next(texts, None)
        if text is None:
            stop.set()
        else:
            path.write_text(text)
    assert seen == ["second", "third"]
