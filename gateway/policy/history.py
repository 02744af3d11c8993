"""What of the decisions is kept on disk, and for how long."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from pydantic import SecretStr

from gateway.model.decision import Decision, is_failure
from gateway.model.verdicts import Reason, Source, Verdict

KEEP: Final = 30 * 24 * 3600.0
KEEP_ALLOWED: Final = 24 * 3600.0
MAX_SIZE: Final = 2 * 2**30
MAX_BODIES: Final = 256 * 1024
"""Bytes of a hook and its answer beyond which their bodies are not kept: masking them would take too long."""


ORDINARY_SOURCES: Final = frozenset((Source.BACKEND, Source.DUPLICATE, Source.STATIC))
"""Of decisions that can be ordinary."""
_ALLOW, _OK, _BACKEND = Verdict.ALLOW, Reason.OK, Source.BACKEND


class Bodies(StrEnum):
    """Of which hooks the history keeps hook and answer."""

    OFF = "off"
    FAILURES = "failures"
    """Those that an operator would look for among the failures."""
    ALL = "all"


class HistorySettings(NamedTuple):
    """What is kept of decisions, and for how long."""

    keep: float = KEEP
    """Seconds for which decisions are kept that are not ``is_ordinary``."""
    keep_allowed: float = KEEP_ALLOWED
    """Seconds for which all others are kept; at most ``keep``."""
    max_size: int = MAX_SIZE
    """Bytes that the history takes on disk, at most: the oldest decisions make room, the ordinary ones first."""
    bodies: Bodies = Bodies.OFF
    key: SecretStr | None = None
    """What whole telephone numbers are found by; the same on all replicas. None: they cannot be found."""


def is_ordinary(decision: Decision) -> bool:
    """Whether the hook was allowed as it was meant, at the first attempt, as nearly all of them are."""
    ruling = decision.ruling
    source = ruling.source
    if (
        ruling.verdict is not _ALLOW
        or ruling.reason is not _OK
        or decision.attempts > 1
        or (source is not _BACKEND and source not in ORDINARY_SOURCES)  # to hash a member of an enum takes long
    ):
        return False
    if (annotations := ruling.annotations) is None:
        return not ruling.error
    return annotations.failed_over_from is None and annotations.changed_fields is None and not is_failure(decision)


def keeps_bodies(decision: Decision, bodies: Bodies) -> bool:
    """Whether the bodies of this hook and its answer are kept."""
    if bodies is Bodies.OFF or not decision.body or decision.size > MAX_BODIES:
        return False
    return bodies is Bodies.ALL or is_failure(decision)
