"""The configuration's file is reloaded when it has changed and is whole, and only then."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.admin.reload import FailureReason, Reloader
from gateway.config import Loaded, file_digest, loads
from gateway.server import file_watch
from gateway.server.file_watch import WatchedFile, watch_file
from gateway.telemetry.metrics import Metrics
from tests.support.gateways import RunningGateway, running_gateway, wait_until

SETTLE: Final = 2.0
LISTEN: Final = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}


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
        return file_digest(path)

    monkeypatch.setattr(file_watch, "file_digest", noting)
    return read


class Clocks:
    """The time since some moment, and the time of day, which may jump."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.jumped = 0.0

    def watched(self, path: Path) -> WatchedFile:
        began = time.time()
        return WatchedFile(path, lambda: self.passed, lambda: began + self.passed + self.jumped)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def told(watched: WatchedFile) -> str | None:
    """What two looks at a file that stands still tell."""
    watched.look()
    return watched.look()


def looks(watched: WatchedFile, clocks: Clocks, seconds: float) -> list[str]:
    """What the watch reports within this many seconds."""
    found = []
    for _ in range(round(seconds / 0.25)):
        clocks.passed += 0.25
        digest = watched.look(SETTLE)
        if digest is not None:
            found.append(digest)
    return found


# --- when it is read ---


def test_a_file_that_stays_as_it_is_is_read_once(path: Path, reads: list[Path], clocks: Clocks) -> None:
    watched = clocks.watched(path)
    clocks.passed += 3600
    assert told(watched) == file_digest(path)
    assert [watched.look() for _ in range(5)] == [None] * 5
    assert reads == [path]


def test_what_else_is_written_beside_it_has_nothing_read(path: Path, reads: list[Path], clocks: Clocks) -> None:
    watched = clocks.watched(path)
    clocks.passed += 3600
    told(watched)
    for number in range(5):
        (path.parent / f"gateway-{number}.log").write_text("a line\n")
        assert watched.look() is None
    assert reads == [path]


def test_a_file_that_is_being_written_is_not_read(path: Path, reads: list[Path]) -> None:
    watched = WatchedFile(path)
    for number in range(5):
        with path.open("a") as file:
            file.write(f"line {number}\n")
        assert watched.look() is None
    assert reads == []
    assert watched.look() == file_digest(path)


def test_a_file_that_is_written_in_parts_is_read_when_the_last_one_is_old_enough(
    path: Path, reads: list[Path], clocks: Clocks
) -> None:
    watched = clocks.watched(path)
    looks(watched, clocks, 4)
    reads.clear()
    for number in range(4):
        with path.open("a") as file:
            file.write(f"part {number}\n")
        assert looks(watched, clocks, 1.75) == []
    assert reads == []
    assert looks(watched, clocks, 1)[0] == file_digest(path)


@pytest.mark.parametrize("how", ["renamed into place", "a link swapped"])
@pytest.mark.parametrize("age", [0.0, 10.0])
def test_a_file_that_took_another_s_place_is_whole_once_it_was_last_written_long_enough_ago(
    path: Path, clocks: Clocks, how: str, age: float
) -> None:
    link = path.with_name("link.yaml")
    link.symlink_to(path)
    watched = clocks.watched(link)
    looks(watched, clocks, 4)
    other = path.with_name("other.yaml")
    other.write_text("other")
    written = time.time() + clocks.passed - age
    os.utime(other, (written, written))
    if how == "renamed into place":
        other.replace(path)
    else:
        (path.parent / "new").symlink_to(other)
        (path.parent / "new").replace(link)
    at_once = looks(watched, clocks, 0.5)
    assert at_once == ([file_digest(link)] if age else [])
    assert age or looks(watched, clocks, 2.5)[0] == file_digest(link)


def test_a_file_written_in_place_is_not_whole_for_its_old_time_of_change(path: Path, clocks: Clocks) -> None:
    """Some copy the time along with the text, and go on writing."""
    watched = clocks.watched(path)
    looks(watched, clocks, 4)
    path.write_text("half")
    os.utime(path, (1.0, 1.0))
    assert looks(watched, clocks, 1.5) == []
    assert looks(watched, clocks, 1.5)[0] == file_digest(path)


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_a_clock_that_jumps_neither_blocks_the_watch_nor_hurries_it_along(
    path: Path, clocks: Clocks, jump: float
) -> None:
    watched = clocks.watched(path)
    looks(watched, clocks, 4)
    clocks.jumped = jump
    path.write_text("second")
    assert looks(watched, clocks, 1.5) == []
    assert looks(watched, clocks, 1.5)[0] == file_digest(path)


@pytest.mark.parametrize("how", ["renamed into place", "written in place", "a link swapped", "the mode"])
def test_every_way_of_change_has_it_read_again(path: Path, clocks: Clocks, how: str) -> None:
    link = path.with_name("link.yaml")
    link.symlink_to(path)
    watched = clocks.watched(link)
    clocks.passed += 3600
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
    assert after == file_digest(link)
    assert (after == before) == (how == "the mode")


def test_a_change_within_the_grain_of_the_file_systems_clock_is_seen(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns()
    stamp = file_watch._Stamp(now, now, 5, 1, 1)
    monkeypatch.setattr(file_watch, "_stamp", lambda _: stamp)  # a clock that stands still
    watched = WatchedFile(path)
    assert told(watched) == file_digest(path)
    path.write_text("other")
    assert watched.look() == file_digest(path)


def test_a_file_that_changes_while_it_is_read_tells_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = WatchedFile(path)
    watched.look()

    def slow(path: Path) -> str | None:
        digest = file_digest(path)
        path.write_text("longer than first")
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(file_watch, "file_digest", slow)
        assert watched.look() is None
    assert told(watched) == file_digest(path)


def test_a_file_that_is_gone_for_a_while_tells_nothing_and_is_read_when_it_is_back(path: Path) -> None:
    watched = WatchedFile(path)
    before = told(watched)
    path.unlink()
    assert [watched.look() for _ in range(3)] == [None] * 3
    path.write_text("first")
    assert told(watched) == before


def test_what_can_never_be_read_is_told_with_its_reason(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)
    reason = told(WatchedFile(path))
    assert reason is not None
    assert "symbolic link" in reason


# --- what is done with it ---


class Stage:
    """A reloader over a file, whose configurations are only noted."""

    def __init__(self, directory: Path, text: str) -> None:
        self.path = directory / "gateway.yaml"
        self.path.write_text(text)
        self.taken: list[Loaded] = []
        self.error: Exception | None = None
        self.reloader = Reloader(loads(text, str(self.path)), Metrics("test"), self._take)

    async def _take(self, loaded: Loaded) -> None:
        if self.error is not None:
            raise self.error
        self.taken.append(loaded)

    async def until(self, done: Callable[[], object], seconds: float = 10.0) -> None:
        """Watch until it is *done*."""
        stop = asyncio.Event()
        watching = asyncio.create_task(watch_file(self.reloader, stop))
        try:
            async with asyncio.timeout(seconds):
                while not done():
                    assert not watching.done()
                    await asyncio.sleep(0.002)
        finally:
            stop.set()
            await watching


def apps(count: int, **server: Any) -> str:
    """A configuration with so many apps; its watch need not wait."""
    named = {f"app-{number}": {"static": "allow"} for number in range(count)}
    return json.dumps({"server": {"watch": {"settle": "0s"}, **server}, "apps": named})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watch, "LOOK_EVERY", 0.001)


@pytest.mark.usefixtures("quick")
async def test_each_text_that_is_not_in_force_is_reloaded(tmp_path: Path) -> None:
    stage = Stage(tmp_path, apps(1))
    stage.path.write_text(apps(2))
    await stage.until(lambda: len(stage.reloader.loaded.config.apps) == 2)
    stage.path.write_text(apps(3))
    await stage.until(lambda: len(stage.reloader.loaded.config.apps) == 3)
    assert [len(loaded.config.apps) for loaded in stage.taken] == [2, 3]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("error", [MemoryError(), OSError("spoilt"), KeyError("hunter2"), RuntimeError("no thread")])
async def test_a_text_that_could_not_be_put_in_force_is_tried_again_and_ends_no_watch(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.admin.reload._RETRY_AFTER", (0.01,))
    stage = Stage(tmp_path, apps(1))
    stage.error = error
    stage.path.write_text(apps(2))
    reloader = stage.reloader
    await stage.until(lambda: reloader._failures > 2)
    assert reloader.last_report.reason is FailureReason.NOT_APPLIED
    assert (reloader.last_successful, len(reloader.loaded.config.apps)) == (False, 1)
    assert caplog.text.count("NOT reloaded") == 1
    assert "hunter2" not in str(reloader.last_report)
    stage.error = None
    await stage.until(lambda: reloader.last_successful)
    assert len(reloader.loaded.config.apps) == 2
    stage.path.write_text(apps(3))
    await stage.until(lambda: len(reloader.loaded.config.apps) == 3)


@pytest.mark.usefixtures("quick")
async def test_a_mistake_outside_the_text_is_noticed_to_be_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.admin.reload._RETRY_AFTER", (0.01,))
    stage = Stage(tmp_path, apps(1))
    secret = tmp_path / "token"
    stage.path.write_text(
        apps(2, max_body="1KiB").replace('"apps"', f'"admin": {{"token": "${{file:{secret}}}"}}, "apps"')
    )
    await stage.until(lambda: stage.reloader._failures > 2)
    assert stage.reloader.last_report.reason is FailureReason.INVALID
    assert caplog.text.count("NOT reloaded") == 1
    secret.write_text("a-token-that-is-long-enough\n")
    await stage.until(lambda: stage.reloader.last_successful)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("before", "after", "allowed", "refused"),
    [
        (10, 4, False, True),
        (10, 5, False, False),
        (9, 1, False, False),
        (1000, 400, False, True),
        (10, 4, True, False),
    ],
)
async def test_most_apps_are_removed_by_command_only(
    tmp_path: Path, before: int, after: int, allowed: bool, refused: bool
) -> None:
    watching = {"watch": {"settle": "0s", "allow_mass_removal": allowed}}
    stage = Stage(tmp_path, apps(before, **watching))
    reloader = stage.reloader
    stage.path.write_text(apps(after, **watching))
    await stage.until(lambda: reloader.last_at > reloader.loaded_at or len(reloader.loaded.config.apps) == after)
    assert (len(reloader.loaded.config.apps) == before) == refused
    if refused:
        assert reloader.last_report.reason is FailureReason.MASS_REMOVAL
        (problem,) = reloader.last_report.problems
        assert f"would remove {before - after} of {before} apps" in str(problem)
        assert not reloader.is_due
        assert (await reloader.reload("admin")).successful
        assert len(reloader.loaded.config.apps) == after


async def test_a_text_that_changed_since_it_was_seen_is_left_to_the_next_look(tmp_path: Path) -> None:
    stage = Stage(tmp_path, apps(1))
    stage.path.write_text(apps(2))
    seen = file_digest(stage.path)
    assert seen is not None
    stage.path.write_text("apps: [")
    await stage.reloader.follow(seen)
    assert (stage.taken, stage.reloader.last_successful) == ([], True)


@pytest.mark.usefixtures("quick")
async def test_a_watch_outlives_whatever_its_looks_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path, apps(1))
    raised = []

    def failing(path: Path) -> str | None:
        raised.append(path)
        if len(raised) < 5:
            raise MemoryError
        return file_digest(path)

    monkeypatch.setattr(file_watch, "file_digest", failing)
    stage.path.write_text(apps(2))
    await stage.until(lambda: len(stage.reloader.loaded.config.apps) == 2)


# --- a running gateway ---


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(served(10), tmp_path_factory.mktemp("watched")) as running:
        yield running


def served(count: int, **server: Any) -> str:
    """A configuration whose first lines are one by themselves, at any cut after an app."""
    lines = [f"  app-{number}: {{static: allow}}" for number in range(count)]
    return "\n".join([f"server: {json.dumps({**LISTEN, **server})}", "apps:", *lines, ""])


def count_of(gateway: RunningGateway) -> int:
    count: int = gateway.get("/api/status").json()["config"]["apps"]
    return count


def test_a_file_that_is_written_in_two_parts_is_taken_as_a_whole(gateway: RunningGateway) -> None:
    patient = {"settle": "5s"}
    gateway.reload(served(10, watch=patient))
    text = served(20, watch=patient)
    cut = text.index("  app-4:")
    with gateway.config.open("w") as file:
        file.write(text[:cut])
        file.flush()
        assert not wait_until(lambda: count_of(gateway) != 10, 0.8)
        file.write(text[cut:])
    assert wait_until(lambda: count_of(gateway) == 20)
    line = gateway.wait_for_line(lambda line: any("app-10" in change for change in line.get("changes", [])))
    assert (line["trigger"], line["result"]) == ("file changed", "success")
    assert gateway.reloads("failure") == []


def test_a_file_that_was_cut_off_needs_a_command(gateway: RunningGateway) -> None:
    gateway.reload(served(12))
    failures = gateway.metric("gateway_config_reload_failures_total", reason="mass_removal")
    gateway.write_config(served(3))
    line = gateway.wait_for_line(lambda line: line.get("reason") == "mass_removal")
    assert "9 of 12 apps" in line["problems"][0]
    assert count_of(gateway) == 12
    assert gateway.metric("gateway_config_reload_failures_total", reason="mass_removal") == failures + 1
    assert gateway.metric("gateway_config_last_reload_successful") == 0
    last = gateway.get("/api/status").json()["last_reload"]
    assert (last["successful"], last["reason"]) == (False, "mass_removal")
    gateway.process.send_signal(signal.SIGHUP)
    assert wait_until(lambda: count_of(gateway) == 3)
    assert gateway.metric("gateway_config_last_reload_successful") == 1


def test_a_watch_that_is_off_leaves_reloads_to_commands_and_can_be_turned_on_again(gateway: RunningGateway) -> None:
    gateway.reload(served(2, watch="off"))
    gateway.write_config(served(3, watch={"settle": "0s"}))
    assert not wait_until(lambda: count_of(gateway) != 2, 1.5)
    assert gateway.post("/-/reload").status_code == 200
    gateway.write_config(served(4, watch={"settle": "0s"}))
    assert wait_until(lambda: count_of(gateway) == 4)
