"""Another process's series, read from the memory that it shares with us, at any time, dead or alive."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import msgspec

from gateway.telemetry.metrics.cells import Counter, Family, Series, map_memory

_decode = msgspec.json.Decoder(tuple[str, str, tuple[str, ...], int]).decode


class WorkerMetrics:
    """The reader's side of a worker's MetricCells."""

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
        """The worker's series of a family, as they stand now."""
        for labels, index in self._series.get(family.name, {}).items():
            yield Series(labels, self._values[index : index + family.length].tolist())

    def totals(self, family: Counter) -> dict[tuple[str, ...], float]:
        """The worker's series of a counter or gauge, as they stand now."""
        values = self._values
        return {labels: values[index] for labels, index in self._series.get(family.name, {}).items()}

    def refresh(self) -> None:
        """Learn which series have come and gone."""
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
        """Let the memory go."""
        self._values.release()
        os.close(self.values_fd)
        os.close(self.names_fd)
