"""The files of a recording: bounded, private, and shared by all workers without a torn line."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

BEGINS: Final = b'{"v":'
"""What the first line of every recording begins with, in every version."""
_MODE: Final = 0o600
MOST_FILES: Final = 2000
"""However small they are that restarts have left behind."""
_PATIENCE: Final = 2.0
"""Seconds for which another process may have the file to itself."""
_LOOK_AGAIN: Final = 0.001
_COUNTED: Final = 16 * 2**20
"""Bytes of a file that goes whose lines are counted; those of the rest are taken to be as long."""
_PIECE: Final = 256 * 1024
DIGITS: Final = 7
"""Of a file's number, at most: one of eight is a date, by which others have put a file aside."""
_TRIES: Final = 100
"""Times that the file may be replaced by another process while it is opened."""


class AppendResult(NamedTuple):
    """What became of lines."""

    written: int
    error: OSError | None
    """Why the others were not, if the system said so; else they are larger than a file may be."""
    deleted: int = 0
    """Lines that went with the oldest files, to make room; about."""


class RecordFiles:
    """Appends lines to ``path``, which becomes ``path.1`` when it is full, the next one ``path.2``, and so on.

    None is renamed twice: with hundreds of files that took longer than to fill one. All take ``files * max_size``
    bytes at most: the oldest go, which have the lowest numbers. A file that an earlier *run* of the gateway began is
    put aside, for its pseudonyms are others; one that holds something else is left alone. Each piece is one write at
    the file's end under a lock (flock) that all writers take; a writer that finds the file rotated meanwhile takes the
    new one. For one thread.
    """

    def __init__(self, path: str, max_size: int, files: int, run: str) -> None:
        self._path = path
        self._max_size = max_size
        self._files = files
        self._begins = b'{"v":1,"run":"%b",' % run.encode()
        self._fd: int | None = None
        self._is_own = False
        self._taken = 0
        """The highest number that a file has."""
        self._sizes: dict[int, int] = {}
        """Of the files put aside, by number: they change no more."""
        self._going: list[tuple[int, int]] = []
        """Descriptors and sizes of files that have just been deleted."""

    def append(self, lines: Sequence[bytes]) -> AppendResult:
        """Write whole lines; what is left of one that the disk cut short is taken back."""
        done = written = 0
        try:
            while done < len(lines):
                fd = self._open_locked()
                try:
                    size = os.fstat(fd).st_size
                    if size and not self._is_own and not self._is_of_this_run(fd):
                        self._rotate()
                        continue
                    self._is_own = True
                    end = _end_that_fits(lines, done, self._max_size - size)
                    if end == done and size:
                        self._rotate()
                    elif end == done:
                        done += 1  # it alone is larger than a file
                    else:
                        _write(fd, size, b"".join(lines[done:end]))
                        written += end - done
                        done = end
                finally:
                    self._unlock()
        except OSError as exc:
            self.close()
            return AppendResult(written, exc, self._count_deleted())
        return AppendResult(written, None, self._count_deleted())

    def close(self) -> None:
        """Let the file go."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open_locked(self) -> int:
        """The current file, ours alone until ``_unlock``."""
        for _ in range(_TRIES):
            fd = self._fd = _open(self._path) if self._fd is None else self._fd
            _lock(fd)
            try:
                there = os.stat(self._path, follow_symlinks=False)
            except FileNotFoundError:
                there = None
            ours = os.fstat(fd)
            if there is not None and (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                return fd
            self.close()  # it has been put aside or removed
        raise OSError(errno.EBUSY, "another process keeps replacing it")

    def _unlock(self) -> None:
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _is_of_this_run(self, fd: int) -> bool:
        return os.pread(fd, len(self._begins), 0) == self._begins

    def _rotate(self) -> None:
        """Make room for a new file. Raises OSError that says so: who may write it may not be allowed to rename it."""
        try:
            self._rotate_files()
        except OSError as exc:
            raise OSError(exc.errno, f"it cannot be put aside to begin the next: {exc.strerror}") from exc

    def _rotate_files(self) -> None:
        """Delete what there is no room for, then put the current file aside, which is locked."""
        self._list_rotated()
        numbers, room = sorted(self._sizes), (self._files - 1) * self._max_size - os.lstat(self._path).st_size
        kept = 0
        for number in reversed(numbers[-(MOST_FILES - 2) :]):
            room -= self._sizes[number]
            if room < 0:
                break
            kept += 1
        for number in numbers[: len(numbers) - kept]:
            self._delete(f"{self._path}.{number}", self._sizes.pop(number))
        if self._files == 1:
            self._delete(self._path, os.lstat(self._path).st_size)
        else:
            os.rename(self._path, f"{self._path}.{self._next_number()}")
        self.close()

    def _list_rotated(self) -> None:
        """Find the rotated files, and the sizes of new ones."""
        directory, name = os.path.split(self._path)
        is_older = re.compile(re.escape(name) + rf"\.([1-9][0-9]{{0,{DIGITS - 1}}})").fullmatch
        there = {int(found[1]) for found in map(is_older, os.listdir(directory or ".")) if found is not None}
        self._taken = max(there, default=0)
        self._sizes = {number: size for number, size in self._sizes.items() if number in there}
        for number in there - self._sizes.keys():
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(f"{self._path}.{number}")
                if stat.S_ISREG(status.st_mode):
                    self._sizes[number] = status.st_size

    def _next_number(self) -> int:
        """The number of the next file; once there is none left, they begin at 1 again."""
        if self._taken >= 10**DIGITS - 1:
            for new, number in enumerate(sorted(self._sizes), 1):
                os.rename(f"{self._path}.{number}", f"{self._path}.{new}")
            self._list_rotated()
        return self._taken + 1

    def _delete(self, path: str, size: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            self._going.append((fd, size))
            os.unlink(path)

    def _count_deleted(self) -> int:
        """The lines of what has been deleted, counted while nobody waits for the file."""
        lines = 0
        while self._going:
            fd, size = self._going.pop()
            lines += _count_lines(fd, size)
            os.close(fd)
        return lines


def is_recording(beginning: bytes) -> bool:
    """Whether a file that begins so may be written as a recording; *beginning* has ``len(BEGINS)`` bytes, if it can."""
    return BEGINS.startswith(beginning)  # its first writer may have died at once


def _open(path: str) -> int:
    """Raises OSError for anything but a recording, or room for one, that can be kept from others' eyes."""
    try:
        # Without waiting, should it be a named pipe that nobody reads.
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, _MODE)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link, and none is followed") from exc
        raise
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        # A file named by mistake, such as a configuration, would be rotated, and deleted in the end.
        if not is_recording(os.pread(fd, len(BEGINS), 0)):
            raise OSError(errno.EEXIST, "it holds something else than a recording, and is left as it is")
        if stat.S_IMODE(mode) != _MODE:
            _make_private(fd)
    except OSError:
        os.close(fd)
        raise
    return fd


def _make_private(fd: int) -> None:
    try:
        os.fchmod(fd, _MODE)
    except PermissionError as exc:
        raise OSError(exc.errno, "it belongs to another user, and cannot be kept from others' eyes") from exc


def _lock(fd: int) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            if time.monotonic() >= until:
                raise OSError(errno.EBUSY, "another process does not let it go") from exc
        time.sleep(_LOOK_AGAIN)


def _count_lines(fd: int, size: int) -> int:
    lines = done = 0
    try:
        while done < min(size, _COUNTED) and (piece := os.pread(fd, _PIECE, done)):
            lines += piece.count(b"\n")
            done += len(piece)
    except OSError:
        return 0
    return lines if done >= size or not done else lines * size // done


def _end_that_fits(lines: Sequence[bytes], start: int, room: int) -> int:
    """Where the lines end that fit."""
    end = start
    while end < len(lines) and len(lines[end]) < room:  # one byte is left to end what a dying writer left
        room -= len(lines[end])
        end += 1
    return end


def _write(fd: int, size: int, data: bytes) -> None:
    """All or nothing."""
    if size and os.pread(fd, 1, size - 1) != b"\n":  # its writer died amid a line
        data = b"\n" + data
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        os.ftruncate(fd, size)
        raise
