"""Metric families over one flat block of floats: recording is an addition in place, reading is somebody else's work.

prometheus-client's own counters take a lock per increment; a hook makes a dozen increments. Here a child is an index
into the block, resolved when a route is first met. Exposition stays prometheus-client's (see exposition.py).
"""

from __future__ import annotations

import mmap
import operator
import os
import time
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

_QUARANTINE: Final = 660.0
"""Seconds before a removed series' cells are used again: a hook in flight, of 10 minutes at most, may add to them."""


MEMORY: Final = 64 * 1024 * 1024
"""Bytes reserved for all series of one process."""
_SCRATCH: Final = 64
"""Cells at the block's beginning that belong to no series."""


class MetricCells:
    """The block of floats. Cells are handed out in runs, zeroed, and taken back after a quarantine.

    A worker's block lies in memory that its supervisor has mapped too (*values_fd*), with a journal of who owns which
    cells (*names_fd*): what a worker has counted outlives even its sudden death, and reading it never disturbs it.
    """

    def __init__(
        self,
        values_fd: int = -1,
        names_fd: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.values = map_memory(values_fd)
        self._names_fd = names_fd
        self._clock = clock
        self._next = _SCRATCH
        self._freed: dict[int, deque[tuple[float, int]]] = {}

    def allocate(self, family: str, labels: tuple[str, ...], length: int) -> int:
        """The index of *length* fresh cells, all zero, for a series."""
        freed = self._freed.get(length)
        if freed and freed[0][0] <= self._clock():
            index = freed.popleft()[1]
            self.values[index : index + length] = array("d", bytes(8 * length))
        elif self._next + length <= len(self.values):
            index = self._next
            self._next += length
        else:
            return 0  # no room: counting goes on into scratch cells that nobody reads
        self._log_change(("+", family, labels, index))
        return index

    def free(self, family: str, labels: tuple[str, ...], index: int, length: int) -> None:
        """Take cells back; whoever still holds their index does no harm within the quarantine."""
        if index:
            self._freed.setdefault(length, deque()).append((self._clock() + _QUARANTINE, index))
            self._log_change(("-", family, labels, index))

    def _log_change(self, entry: tuple[str, str, tuple[str, ...], int]) -> None:
        if self._names_fd is not None:
            os.write(self._names_fd, msgspec.json.encode(entry) + b"\n")


def map_memory(fd: int = -1) -> memoryview[float]:
    """The block's memory: anonymous, or the file's. Pages that are never touched cost nothing."""
    if fd >= 0 and os.fstat(fd).st_size < MEMORY:
        os.ftruncate(fd, MEMORY)
    return memoryview(mmap.mmap(fd, MEMORY)).cast("d")


class Value:
    """One series of a counter or gauge."""

    __slots__ = ("_index", "_values")

    def __init__(self, cells: MetricCells, index: int) -> None:
        self._values = cells.values
        self._index = index

    def inc(self, amount: float = 1.0) -> None:
        """Add to it."""
        self._values[self._index] += amount

    def set(self, value: float) -> None:
        """Set it (gauges)."""
        self._values[self._index] = value

    def get(self) -> float:
        """What it stands at."""
        return self._values[self._index]


class Distribution:
    """One series of a histogram: a cell per bucket (not cumulative), one past the last bound, one for the sum."""

    __slots__ = ("_bounds", "_index", "_sum", "_values")

    def __init__(self, cells: MetricCells, index: int, bounds: Sequence[float]) -> None:
        self._values = cells.values
        self._index = index
        self._bounds = bounds
        self._sum = index + len(bounds) + 1

    def observe(self, value: float) -> None:
        """Count one observation."""
        values = self._values
        values[self._index + bisect_left(self._bounds, value)] += 1.0
        values[self._sum] += value


class Series(NamedTuple):
    """A series as it stood when it was read; a histogram's values are its buckets' and then its sum."""

    labels: tuple[str, ...]
    values: Sequence[float]


class Family:
    """A named metric and its series by label values. A label whose value is empty is left out when exposed."""

    kind: str
    length: int
    """Cells per series."""

    def __init__(self, cells: MetricCells, name: str, help_text: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.help_text = help_text
        self.labels = tuple(labels)
        self._cells = cells
        self._indexes: dict[tuple[str, ...], int] = {}

    def read(self) -> Iterator[Series]:
        """All series with their present values."""
        for labels, index in list(self._indexes.items()):
            if not index:
                continue  # it has no cells of its own
            yield Series(labels, self._cells.values[index : index + self.length].tolist())

    def merged(self, one: Sequence[float], other: Sequence[float]) -> list[float]:
        """Two processes' values of one series as one."""
        return [mine + theirs for mine, theirs in zip(one, other, strict=True)]

    def keep(self, names: Sequence[str], allowed: Container[Any]) -> None:
        """Remove every series whose value of a label, or tuple of values where several are named, is not *allowed*."""
        value_of = operator.itemgetter(*(self.labels.index(name) for name in names))
        for labels in [labels for labels in self._indexes if value_of(labels) not in allowed]:
            self._cells.free(self.name, labels, self._indexes.pop(labels), self.length)

    def add(self, series: Series) -> None:
        """Add another process's values of a series to this one's."""
        index = self._series_index(series.labels)
        for offset, value in enumerate(series.values):
            self._cells.values[index + offset] += value

    def _series_index(self, labels: tuple[str, ...]) -> int:
        index = self._indexes.get(labels)
        if index is None:
            if len(labels) != len(self.labels):
                raise ValueError(f"{self.name} has the labels {self.labels}, not {len(labels)} of them")
            index = self._indexes[labels] = self._cells.allocate(self.name, labels, self.length)
        return index


class Counter(Family):
    """Only ever goes up."""

    kind = "counter"
    length = 1

    def with_labels(self, *labels: str) -> Value:
        """The series with these label values, made if need be."""
        return Value(self._cells, self._series_index(labels))

    def totals(self) -> dict[tuple[str, ...], float]:
        """All series with their present values; a tenth of the time that ``read`` takes.

        Nothing is made for each series that the cycle collector would look at, and hold up everybody for it.
        """
        values = self._cells.values
        return {labels: values[index] for labels, index in dict(self._indexes).items() if index}

    def merge(self, one: float, other: float) -> float:
        """Two processes' values of one series as one."""
        return one + other

    def merged(self, one: Sequence[float], other: Sequence[float]) -> list[float]:
        """The same, as series are read."""
        return [self.merge(one[0], other[0])]


class Gauge(Counter):
    """Goes up and down; *merge* says how the gauges of several processes become one."""

    kind = "gauge"

    def __init__(
        self,
        cells: MetricCells,
        name: str,
        help_text: str,
        labels: Sequence[str] = (),
        merge: Callable[[float, float], float] = operator.add,
    ) -> None:
        super().__init__(cells, name, help_text, labels)
        self._merge = merge

    def merge(self, one: float, other: float) -> float:
        """Two processes' values of one series as one."""
        return self._merge(one, other)


class Histogram(Family):
    """Counts observations in buckets; *bounds* are the buckets' upper bounds, rising."""

    kind = "histogram"

    def __init__(
        self, cells: MetricCells, name: str, help_text: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> None:
        super().__init__(cells, name, help_text, labels)
        self.bounds = tuple(bounds)
        self.length = len(self.bounds) + 2

    def with_labels(self, *labels: str) -> Distribution:
        """The series with these label values, made if need be."""
        return Distribution(self._cells, self._series_index(labels), self.bounds)
