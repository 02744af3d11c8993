"""Files of a recording: looked through once for what is wanted, then read again hook by hook, in the order of then."""

from __future__ import annotations

import os
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final, NamedTuple

from gateway.model.hooks import BadHookError, HookReader, MethodType, method_type
from gateway.model.text import printable
from gateway.model.verdicts import Source
from gateway.policy.rules.globs import compile_glob
from gateway.policy.sampling import session_or_call
from gateway.recording import Record, RecordError
from gateway.recording.format import decode_record

MAX_LINE: Final = 16 * 2**20
"""Bytes of a line: more than any hook with its answer takes."""
_HOPELESS: Final = 16 * MAX_LINE
"""Bytes of a line after which nobody looks for its end."""
MAX_FILES: Final = 1024
FAILED: Final = "failed"
"""In place of an app: hooks that the fallback decided, because no backend did."""
MAX_HOOKS: Final = 5_000_000
"""Hooks in one replay; each takes some seventy bytes of memory."""
_COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"BZh": "bzip2"}
"""What compressed files begin with: rotated logs often are compressed."""
_LISTED: Final = 20
"""Skipped lines that are listed one by one."""


class UnreadableError(Exception):
    """A file cannot be read; the message says which and why."""


class HookFilter:
    """Which hooks are to be played.

    *only* are ``APP`` or ``APP/METHOD``, globs both, or ``FAILED``: hooks that no backend took. Without *all_methods*,
    methods that neither a pattern nor *types* name are played only if they are incoming ones: a connect, a direct
    invocation or an event may have side effects.
    """

    def __init__(
        self, only: Sequence[str] = (), *, types: Sequence[MethodType] = (), all_methods: bool = False
    ) -> None:
        self.only_failed = FAILED in only
        self._types = frozenset(types)
        self._all_methods = all_methods or bool(types)
        self._patterns: list[tuple[re.Pattern[str], re.Pattern[str] | None]] = []
        for pattern in only:
            if pattern == FAILED:
                continue
            app, _, method = pattern.rpartition("/") if "/" in pattern else (pattern, "", "")
            names_method = bool(method.strip("*"))
            self._patterns.append((compile_glob(app), compile_glob(method) if names_method else None))

    def matches(self, app: str, method: str, source: str = Source.BACKEND) -> bool | None:
        """Whether a hook is wanted; None if it is but for its method, which may have side effects."""
        if self.only_failed and source != Source.FALLBACK:
            return False
        if self._types and method_type(method) not in self._types:
            return False
        without_effects = self._all_methods or method_type(method) is MethodType.INCOMING
        if not self._patterns:
            return without_effects or None
        found: bool | None = False
        for app_is, method_is in self._patterns:
            if app_is.fullmatch(app) is None:
                continue
            if method_is is None:
                if without_effects:
                    return True
                found = None
            elif method_is.fullmatch(method) is not None:
                return True
        return found


class SkippedLine(NamedTuple):
    """A line that was skipped."""

    where: str
    """``FILE:LINE``."""
    reason: str


class RecordedHook(NamedTuple):
    """A recorded hook, and where it is written."""

    record: Record
    where: str
    """``FILE:LINE``."""
    session: bytes
    """Hooks of the same one are played one after the other; empty where the hook is of none."""


class Recording:
    """What some files hold. Close it."""

    def __init__(self, paths: Sequence[str], hook_filter: HookFilter, limit: int | None = None) -> None:
        """Look through all of them. Raises UnreadableError."""
        self._names: list[str] = []
        """As they are shown: a file's name need not be text."""
        self._files: list[BinaryIO] = []
        self._known: set[tuple[int, int]] = set()
        """Files by device and inode: one may have two names, or get the next while a gateway turns its files over."""
        self._hook_reader = HookReader()
        self._began = array("d")
        self._places = array("Q")
        """Three numbers for each hook: file, line, offset."""
        self._order: Sequence[int] = ()
        self.broken: list[SkippedLine] = []
        """The first of them."""
        self.broken_count = 0
        self.left_out: Counter[str] = Counter()
        """Hooks that are not wanted for their method's side effects, by method."""
        self.not_wanted = 0
        """Hooks that are not wanted for their app or method."""
        if len(paths) > MAX_FILES:
            raise UnreadableError(f"{len(paths)} files are more than the {MAX_FILES} that one replay takes")
        try:
            for path in paths:
                self._scan(path, hook_filter)
        except BaseException:
            self.close()
            raise
        order = sorted(range(len(self._began)), key=self._began.__getitem__)
        self._order = order if limit is None else order[:limit]
        self.beyond_limit = len(order) - len(self._order)

    def __len__(self) -> int:
        return len(self._order)

    @property
    def times(self) -> Iterator[float]:
        """When each hook that is wanted began, Unix time, in order."""
        return (self._began[index] for index in self._order)

    def hooks(self) -> Iterator[RecordedHook]:
        """Those wanted, in the order in which they came. Raises UnreadableError if a file has changed."""
        for index in self._order:
            file, line, offset = self._places[3 * index : 3 * index + 3]
            where = f"{self._names[file]}:{line}"
            stream = self._files[file]
            try:
                stream.seek(offset)
                record = decode_record(stream.readline(MAX_LINE))
                hook = self._hook_reader.read(bytes(record.hook))
            except (OSError, RecordError, BadHookError) as exc:
                raise UnreadableError(f"{where}: it has changed since it was looked through: {exc}") from exc
            yield RecordedHook(record, where, session_or_call(hook, record.method))

    def close(self) -> None:
        """Let the files go."""
        for stream in self._files:
            stream.close()

    def _scan(self, path: str, hook_filter: HookFilter) -> None:
        name = printable(path)
        try:
            if not os.path.isfile(path):  # a named pipe would be waited for, and cannot be read twice
                raise UnreadableError(f"{name}: {_missing_reason(path)}")
            # Without waiting: some files of /proc are regular ones, and wait as a pipe does.
            stream = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: SIM115 - read again
            number = len(self._files)
            self._files.append(stream)
            self._names.append(name)
            status = os.fstat(stream.fileno())
            if (status.st_dev, status.st_ino) in self._known:
                return
            self._known.add((status.st_dev, status.st_ino))
            beginning = stream.read(8) or b""  # None: it waits as a pipe does
            stream.seek(0)
            for begins, program in _COMPRESSED.items():
                if beginning.startswith(begins):
                    raise UnreadableError(f"{name}: it is compressed ({program}): unpack it first")
            offset = line = 0
            while data := stream.readline(MAX_LINE):
                line += 1
                size = len(data)
                if size == MAX_LINE and not data.endswith(b"\n"):
                    while rest := stream.readline(MAX_LINE):
                        size += len(rest)
                        if rest.endswith(b"\n"):
                            break
                        if size > _HOPELESS:
                            raise UnreadableError(f"{name}: it is no recording: line {line} has more than {size} bytes")
                    self._skip(f"{name}:{line}", f"it is longer than {MAX_LINE} bytes")
                else:
                    self._scan_line(data, (number, line, offset), hook_filter)
                offset += size
        except (OSError, ValueError) as exc:  # ValueError: a NUL in the name
            raise UnreadableError(f"{name}: {getattr(exc, 'strerror', None) or exc}") from exc

    def _scan_line(self, data: bytes, place: tuple[int, int, int], hook_filter: HookFilter) -> None:
        where = f"{self._names[place[0]]}:{place[1]}"
        try:
            record = decode_record(data)
            self._hook_reader.read(bytes(record.hook))
        except RecordError as exc:
            self._skip(where, str(exc))
            return
        except BadHookError as exc:
            self._skip(where, f"its hook is none: {exc}")
            return
        matches = hook_filter.matches(record.app, record.method, record.source)
        if matches is None:
            self.left_out[record.method[:64]] += 1
        elif not matches:
            self.not_wanted += 1
        elif len(self._began) >= MAX_HOOKS:
            raise UnreadableError(f"{where}: more than {MAX_HOOKS} hooks; choose with --only, or fewer files")
        else:
            self._began.append(record.began)
            self._places.extend(place)

    def _skip(self, where: str, reason: str) -> None:
        self.broken_count += 1
        if len(self.broken) < _LISTED:
            self.broken.append(SkippedLine(where, reason))


def _missing_reason(path: str) -> str:
    if path == "-":
        return "standard input cannot be played, for a recording is read twice: write it to a file"
    return "it is no regular file" if os.path.exists(path) else "it is not there"
