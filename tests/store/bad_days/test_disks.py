"""Disks that are full, read-only, failing, slow; database files that are damaged or newer."""

from __future__ import annotations

import errno
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.store.bad_days.stage import DOWN, UP, Day, bad_day, store_is_up
from tests.support.gateways import RunningGateway, wait_until
from tests.support.powercut import Faults, environment
from tests.support.programs import impossible, require

GATEWAY: Final = (sys.executable, "-m", "gateway")


# --- a small disk ---


class SmallDisk:
    """A file system of 8 MB that only one gateway and its children see, at *path*."""

    def __init__(self, path: Path, options: str = "rw") -> None:
        """Skips the test where no file system can be mounted."""
        self.path = path
        path.mkdir()
        script = 'mount -t tmpfs -o size=8m,mode=750 wcs "$0" && mount -o remount,"$1" "$0" && shift && exec "$@"'
        wrapper = [require("unshare", "util-linux"), "--mount", "sh", "-c", script, str(path), options]
        tried = subprocess.run([*wrapper, "true"], capture_output=True, text=True, timeout=20)
        if tried.returncode != 0:
            impossible(f"no file system can be mounted here: {tried.stderr.strip()}")
        self.program = (*wrapper, *GATEWAY)
        """Runs the gateway on it."""

    def seen(self, gateway: RunningGateway) -> Path:
        """Its directory, from outside."""
        return Path(f"/proc/{gateway.pid}/root{self.path}")

    def fill(self, gateway: RunningGateway, leave: int = 0) -> None:
        """Write until only *leave* bytes are free."""
        ballast = self.seen(gateway) / "ballast"
        with ballast.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError as exc:
                if exc.errno != errno.ENOSPC:
                    raise
            if leave:
                file.truncate(file.tell() - leave)

    def clear(self, gateway: RunningGateway) -> None:
        """Make room again."""
        (self.seen(gateway) / "ballast").unlink()

    def remount(self, gateway: RunningGateway, options: str) -> None:
        """Change how it is mounted."""
        command = ["nsenter", "-t", str(gateway.pid), "-m", "mount", "-o", f"remount,{options}", str(self.path)]
        subprocess.run(command, check=True, timeout=20)


@pytest.mark.slow
def test_a_full_disk_and_back(tmp_path: Path) -> None:
    """What finds no room is refused, not promised; what was kept is delivered once, at the latest when there is room.

    While nothing can be written, no delivery can be noted: whether any is made depends on what room is left.
    """
    with bad_day("disk full and back", tmp_path) as day:
        disk = SmallDisk(tmp_path / "disk")
        config = day.config(store=f"sqlite:{disk.path}/store.db")
        day.backend.follow(DOWN)
        with day.gateway(config, program=disk.program) as gateway:
            assert day.send(gateway, "before", 50) == {200: 50}
            disk.fill(gateway, leave=300_000)
            with day.load([gateway], calls=10, events=40, size=3000) as load:
                assert wait_until(lambda: load.statuses().get(403, 0) > 5, 30), load.statuses()
            assert load.statuses().keys() <= {200, 403}
            disk.fill(gateway)
            assert set(day.send(gateway, "full")) <= {200, 403}
            day.backend.follow(UP)
            time.sleep(2)
            disk.clear(gateway)
            day.wait_until_delivered()
            day.backend.follow(DOWN)
            assert wait_until(lambda: set(day.send(gateway, f"again{time.monotonic()}")) == {200})
            assert store_is_up(gateway)
            day.backend.follow(UP)
            day.close()


@pytest.mark.slow
def test_a_disk_that_is_read_only_at_the_start(tmp_path: Path) -> None:
    """The gateway starts, says so, and serves; the store comes up by itself once the disk can be written."""
    with bad_day("read-only disk", tmp_path) as day:
        disk = SmallDisk(tmp_path / "disk", "ro")
        config = day.config(store=f"sqlite:{disk.path}/store.db")
        with day.gateway(config, up=False, program=disk.program) as gateway:
            gateway.wait_for_line(lambda line: "read-only" in str(line), 20)
            with day.load([gateway], calls=5, events=10) as load:
                pass
            assert load.statuses() == {200: 50}, "the backend is well"
            day.backend.follow(DOWN)
            assert day.send(gateway, "refused") == {403: 10}
            assert gateway.metric("gateway_store_up") == 0
            disk.remount(gateway, "rw")
            assert store_is_up(gateway)
            assert day.send(gateway, "kept") == {200: 10}
            day.backend.follow(UP)
            found = day.close()
            assert found.redelivered == 10


# --- a disk that fails ---


@contextmanager
def on_faulty_disk(day: Day) -> Iterator[tuple[RunningGateway, Faults]]:
    """A gateway whose store lies where writes and syncs can be made to fail."""
    directory = day.directory / "disk"
    directory.mkdir()
    faults = Faults(day.directory / "faults")
    config = day.config(store=f"sqlite:{directory}/store.db")
    variables = environment(directory, day.directory / "journal", faults.path)
    with day.gateway(config, environment=variables) as gateway:
        yield gateway, faults


FAILURES: Final = [
    ("sync", errno.EIO),
    ("sync", errno.ENOSPC),
    ("write", errno.ENOSPC),
    ("write", errno.EIO),
    ("write", errno.EROFS),
]


@pytest.mark.slow
def test_writes_or_syncs_that_fail(tmp_path: Path) -> None:
    """Nothing is promised meanwhile; afterwards the store works again by itself."""
    with bad_day("writes and syncs fail with EIO, ENOSPC, EROFS", tmp_path) as day, on_faulty_disk(day) as faulty:
        gateway, faults = faulty
        day.backend.follow(DOWN)
        assert day.send(gateway, "before") == {200: 10}
        for number, (call, error) in enumerate(FAILURES):
            with day.load([gateway], calls=10, events=20, name=f"call{number}") as load:
                load.wait_for(60)
                faults.set(**{call: error})
                load.wait_for(120)
            assert load.statuses().keys() == {200, 403}, (call, error)
            assert day.send(gateway, f"amid{number}") == {403: 10}, (call, error)
            assert store_is_up(gateway, up=False)
            faults.set()
            assert store_is_up(gateway)
            assert wait_until(lambda: set(day.send(gateway, f"after{time.monotonic()}")) == {200})
        day.backend.follow(UP)
        day.close()


@pytest.mark.slow
def test_a_disk_that_is_slow(tmp_path: Path) -> None:
    """What is not on the disk in time gets the fallback's verdict, in time; it may be delivered all the same."""
    with bad_day("each sync takes 2 s", tmp_path) as day, on_faulty_disk(day) as (gateway, faults):
        day.backend.follow(DOWN)
        assert day.send(gateway, "before") == {200: 10}
        faults.set(delay=2.0)
        with day.load([gateway], calls=8, events=3) as load:
            pass
        assert load.statuses().keys() <= {200, 403}
        assert load.statuses()[403] >= 12
        assert max(one.ended - one.begun for one in load.sent) < 1.0 + 2.0, "the budget is 1 s"
        faults.set()
        assert wait_until(lambda: set(day.send(gateway, f"after{time.monotonic()}")) == {200})
        day.backend.follow(UP)
        found = day.close()
        assert found.delivered > found.promised, "what was committed late is delivered too"


# --- files ---


def spool_file(day: Day) -> Path:
    return day.directory / "store.spool.db"


def damage_header(file: Path) -> None:
    with file.open("r+b") as database:
        database.write(b"not a database at all" * 10)


def damage_pages(file: Path) -> None:
    """All but the first page."""
    size = file.stat().st_size
    with file.open("r+b") as database:
        database.seek(4096)
        database.write(b"\xa5" * (size - 4096))


@pytest.mark.slow
@pytest.mark.parametrize("damage", [damage_header, damage_pages])
def test_a_damaged_file(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """The gateway starts, says so and serves; the file stays where it is until somebody has it moved aside."""
    with bad_day(f"damaged database ({damage.__name__})", tmp_path) as day:
        day.backend.follow(DOWN)
        with day.gateway(day.config()) as gateway:
            assert day.send(gateway, "before") == {200: 10}
        day.accounted |= {one.id for one in day.sent}  # they are in the damaged file
        damage(spool_file(day))
        damaged = spool_file(day).read_bytes()
        with day.gateway(day.config(), up=False) as gateway:
            gateway.wait_for_line(lambda line: "is damaged" in str(line), 20)
            assert gateway.metric("gateway_store_up") == 0
            with day.load([gateway], calls=5, events=10) as load:
                pass
            assert load.statuses() == {403: 50}
            assert spool_file(day).read_bytes() == damaged
        config = day.directory / "gateway-2" / "gateway.yaml"
        done = subprocess.run(
            [*GATEWAY, "store", "check", "--move-aside", "-c", str(config)], capture_output=True, text=True, timeout=60
        )
        assert "moved" in done.stdout + done.stderr, done
        assert any(path.read_bytes() == damaged for path in day.directory.glob("store.spool.db*"))
        day.backend.follow(DOWN)
        with day.gateway(day.config()) as gateway:
            assert day.send(gateway, "after") == {200: 10}
            day.backend.follow(UP)
            day.close()


@pytest.mark.slow
def test_a_damaged_history_leaves_the_spool_as_it_is(tmp_path: Path) -> None:
    with bad_day("damaged history", tmp_path) as day:
        day.backend.follow(DOWN)
        config = day.config(history={})
        with day.gateway(config) as gateway:
            assert day.send(gateway, "before") == {200: 10}
        damage_header(tmp_path / "store.history.db")
        with day.gateway(config) as gateway:
            gateway.wait_for_line(lambda line: "history.db is damaged" in str(line), 20)
            with day.load([gateway], calls=5, events=10) as load:
                pass
            assert load.statuses() == {200: 50}
            day.backend.follow(UP)
            assert day.close().delivered == 60


def set_oldest(file: Path, number: int) -> tuple[int]:
    """Change the oldest version of the schema that a gateway must know; returns the one before."""
    with closing(sqlite3.connect(file)) as database, database:
        before: tuple[int] = database.execute("SELECT number FROM spool_meta WHERE name = 'oldest'").fetchone()
        database.execute("UPDATE spool_meta SET number = ? WHERE name = 'oldest'", (number,))
    return before


@pytest.mark.slow
def test_a_database_of_a_newer_version(tmp_path: Path) -> None:
    """A gateway that is older than the schema allows runs without it, and leaves it alone."""
    with bad_day("database of a newer version", tmp_path) as day:
        day.backend.follow(DOWN)
        with day.gateway(day.config()) as gateway:
            assert day.send(gateway, "before") == {200: 10}
        (oldest,) = set_oldest(spool_file(day), 9999)
        with day.gateway(day.config(), up=False) as gateway:
            gateway.wait_for_line(lambda line: "newer" in str(line), 20)
            with day.load([gateway], calls=5, events=10) as load:
                pass
            assert load.statuses() == {403: 50}
            assert gateway.metric("gateway_store_up") == 0
        set_oldest(spool_file(day), oldest)
        with day.gateway(day.config()):
            day.backend.follow(UP)
            found = day.close()
            assert found.delivered == found.promised == 10
