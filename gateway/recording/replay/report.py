"""What a replay brought: counted, with the first examples, for people and as JSON."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Mapping
from typing import Final

import msgspec

from gateway.model.verdicts import Cause
from gateway.policy.comparison import ComparedAnswer, Comparison, Difference, Finding
from gateway.recording.masking import STARS
from gateway.recording.replay.reader import RecordedHook

EXAMPLES: Final = 5
"""Of each kind, the first."""
MAX_KINDS: Final = 200
"""Kinds that are counted separately; the rest are one kind."""
OTHERS: Final = "others"
BODIES_DIFFER: Final = "bodies differ"
_STARRED: Final = b'"%b"' % STARS.encode()


class Example(msgspec.Struct, frozen=True):
    """A hook on which the candidate disagreed or failed."""

    kind: str
    where: str
    """``FILE:LINE``."""
    request_id: str
    app: str
    method: str
    error: str
    differences: tuple[Difference, ...]


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds."""

    p50: float
    p95: float
    p99: float
    max: float


class Report(msgspec.Struct, frozen=True):
    """The whole of it, as JSON has it."""

    to: str
    compare: str
    agreed: bool
    """Whether the candidate answered every hook, and every one that could be compared as its predecessor had."""
    finished: bool
    hooks: int
    """In the files, as far as they were wanted."""
    played: int
    compared: int
    agreements: int
    disagreements: Mapping[str, int]
    """By kind."""
    paths: Mapping[str, int]
    """Where bodies differ, by field."""
    failures: Mapping[str, int]
    """The candidate's, by cause."""
    not_compared: Mapping[str, int]
    """Hooks that no backend had decided, by who had."""
    left_out: Mapping[str, int]
    """Hooks that were not played for their method's side effects, by method."""
    not_wanted: int
    beyond_limit: int
    broken_lines: int
    fields_not_compared: int
    """Answers in which both had overwritten a field that is a pseudonym in the recording."""
    masked: tuple[str, ...]
    """Fields that are pseudonyms in the recording: a backend that checks particular values decides differently."""
    starred: int
    """Compared hooks with stars in place of a secret: a backend that checks the secret decides differently."""
    examples: tuple[Example, ...]
    candidate_ms: Latency | None
    """Of the hooks that were compared."""
    recorded_ms: Latency | None
    """Of the same hooks, the backend's of then."""
    seconds: float
    behind_seconds: float
    """How late a hook went out, at most, where a pace was to be kept."""
    paced: bool
    """Whether there was one; without, the latencies are those of a backend that is kept as busy as can be."""


class Tally:
    """Counts while it is played."""

    def __init__(self) -> None:
        self.played = self.compared = self.agreements = self.fields_not_compared = self.starred = 0
        self.behind = 0.0
        self._began = time.monotonic()
        self._disagreements: Counter[str] = Counter()
        self._paths: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._not_compared: Counter[str] = Counter()
        self._masked: set[str] = set()
        self._examples: dict[str, list[Example]] = {}
        self._candidate = array("d")
        self._recorded = array("d")

    @property
    def disagreed(self) -> int:
        """How many so far."""
        return self._disagreements.total()

    @property
    def failed(self) -> int:
        """How many hooks the candidate gave no verdict for so far."""
        return self._failures.total()

    def add_failure(self, played: RecordedHook, cause: Cause, error: str) -> None:
        """The candidate gave no verdict."""
        self.played += 1
        kind = _limited_kind(self._failures, cause.value)
        self._failures[kind] += 1
        self._add_example(played, kind, error, ())

    def add_uncomparable(self, played: RecordedHook, why: str) -> None:
        """The candidate gave a verdict, and there is none of a backend's to compare it with."""
        self.played += 1
        self._not_compared[_limited_kind(self._not_compared, why)] += 1

    def add_comparison(
        self, played: RecordedHook, ours: ComparedAnswer, theirs: ComparedAnswer, comparison: Comparison, ms: float
    ) -> None:
        """Both gave a verdict."""
        self.played += 1
        self.compared += 1
        self._candidate.append(ms)
        self._recorded.append(played.record.upstream_ms)
        self.starred += _STARRED in bytes(played.record.hook)
        if len(self._masked) < MAX_KINDS:
            self._masked.update(played.record.masked)
        if comparison.outcome is Finding.MATCH:
            self.agreements += 1
            return
        if comparison.outcome is Finding.VERDICT_DIFFERS:
            kind = f"{ours.verdict} became {theirs.verdict}"
        else:
            kind = BODIES_DIFFER
            for path in {difference.path for difference in comparison.differences}:
                self._paths[_limited_kind(self._paths, path)] += 1
        self._disagreements[kind] += 1
        self._add_example(played, kind, "", comparison.differences)

    def report(self, to: str, compare: str, hooks: int, *, finished: bool, **of_recording: object) -> Report:
        """What there is so far."""
        return msgspec.convert(
            {
                "to": to,
                "compare": compare,
                "agreed": finished and self.compared > 0 and not self._disagreements and not self._failures,
                "finished": finished,
                "hooks": hooks,
                "played": self.played,
                "compared": self.compared,
                "agreements": self.agreements,
                "disagreements": dict(self._disagreements.most_common()),
                "paths": dict(self._paths.most_common()),
                "failures": dict(self._failures.most_common()),
                "not_compared": dict(self._not_compared.most_common()),
                "fields_not_compared": self.fields_not_compared,
                "masked": tuple(sorted(self._masked)),
                "starred": self.starred,
                "examples": tuple(example for examples in self._examples.values() for example in examples),
                "candidate_ms": _latency(self._candidate),
                "recorded_ms": _latency(self._recorded),
                "seconds": round(time.monotonic() - self._began, 3),
                "behind_seconds": round(self.behind, 3),
                **of_recording,
            },
            Report,
        )

    def _add_example(self, played: RecordedHook, kind: str, error: str, differences: tuple[Difference, ...]) -> None:
        examples = self._examples.setdefault(kind, [])
        if len(examples) < EXAMPLES:
            record = played.record
            examples.append(
                Example(
                    kind=kind,
                    where=played.where,
                    request_id=record.request_id,
                    app=record.app,
                    method=record.method,
                    error=error,
                    differences=differences,
                )
            )


def _limited_kind(counts: Counter[str], kind: str) -> str:
    return kind if kind in counts or len(counts) < MAX_KINDS else OTHERS


def _latency(values: array[float]) -> Latency | None:
    if not values:
        return None
    ordered = sorted(values)
    last = len(ordered) - 1
    p50, p95, p99 = (round(ordered[min(last, int(share * len(ordered)))], 3) for share in (0.5, 0.95, 0.99))
    return Latency(p50, p95, p99, round(ordered[-1], 3))
