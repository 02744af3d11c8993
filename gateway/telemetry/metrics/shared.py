"""The series of a worker, read from the memory that it shares with its supervisor, even after its death."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import msgspec

from gateway.telemetry.metrics.cells import Counter, Family, Series, map_memory

_decode = msgspec.json.Decoder(tuple[str, str, tuple[str, ...], int]).decode


class WorkerMetrics:
    """Reads a worker's MetricCells. Raises OSError where no memory or descriptor is left."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as undo:
            self.values_fd = os.memfd_create("gateway-values")
            undo.callback(os.close, self.values_fd)
            self.names_fd = os.memfd_create("gateway-names")
            undo.callback(os.close, self.names_fd)
            self._values = map_memory(self.values_fd)
            undo.pop_all()
        self._series: dict[str, dict[tuple[str, ...], int]] = {}
        self._read = 0
        self._rest = b""

    def series(self, family: Family) -> Iterator[Series]:
        """The worker's series of a family, with their present values."""
        for labels, index in self._series.get(family.name, {}).items():
            yield Series(labels, self._values[index : index + family.length].tolist())

    def totals(self, family: Counter) -> dict[tuple[str, ...], float]:
        """The present values of the worker's series of a counter or gauge."""
        values = self._values
        return {labels: values[index] for labels, index in self._series.get(family.name, {}).items()}

    def refresh(self) -> None:
        """Learn which series were added and removed."""
        while chunk := os.pread(self.names_fd, 1 << 20, self._read):
            self._read += len(chunk)
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for line in lines:
                sign, family, labels, index = _decode(line)
                series = self._series.setdefault(family, {})
                if sign == "+":
                    series[labels] = index
                else:
                    series.pop(labels, None)

    def close(self) -> None:
        """Release the memory."""
        self._values.release()
        os.close(self.values_fd)
        os.close(self.names_fd)
