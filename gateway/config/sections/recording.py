"""The recording: hooks and their decisions in files, to be replayed against another backend."""

from __future__ import annotations

import os
import stat
from typing import Annotated, Final

from pydantic import Field

from gateway.config.sections.fields import Section
from gateway.config.sections.tls import FilePath, absolute_path
from gateway.config.sections.types import FRACTION, TRUE_OR_FALSE, ListLength, ReadAs, size, text, whole_number
from gateway.recording import FILES, MASKED, RecordSettings
from gateway.recording.files import BEGINS, DIGITS, is_recording

MAX_MASKED: Final = 64

FieldName = Annotated[
    str, text(r"^[^\x00-\x1f\x7f-\x9f]{1,64}$", "must be the name of a field: 1 to 64 characters, such as caller", 64)
]


class Record(Section):
    """Hooks with their decisions, as JSON lines in files, for gateway replay."""

    path: FilePath = Field(
        description="The file that is written; older ones are PATH.1, PATH.2 … beside it, and the highest number is "
        "the newest. Required. Its directory must exist, and be readable only by people who may know who called whom. "
        "Relative paths start at the directory of this file."
    )
    sample: Annotated[float, FRACTION] = Field(
        default="100%",
        validate_default=True,
        description="Share of the sessions that are recorded, such as 10% or 0.1; of a session all hooks or none. "
        "Default 100%. Recording takes CPU time and disk space for each hook.",
    )
    failures_only: Annotated[bool, TRUE_OR_FALSE] = Field(
        default=False,
        description="Whether to record only hooks that no backend, rule or static app decided. Default false. With "
        "true, the recording shows nothing of what went well.",
    )
    max_size: Annotated[int, size("64KiB", "64GiB")] = Field(
        default="64MiB",
        validate_default=True,
        description="How large a file may grow before the next one is begun. Default 64MiB. A hook with an SDP takes "
        "about 5KiB.",
    )
    files: Annotated[int, whole_number(1, 1000, "files")] = Field(
        default=FILES,
        description=f"How many files are kept, the current one counted. Default {FILES}; the oldest is deleted, so all "
        "together take at most files times max_size.",
    )
    mask: Annotated[tuple[FieldName, ...], ListLength(0, MAX_MASKED, "fields")] = Field(
        default=MASKED,
        description="Fields whose values are replaced by pseudonyms, the same one for the same value within a file, "
        "so that a replay still matches. Default caller and callee. An empty list records phone numbers unmasked.",
    )


RECORD: Final = ReadAs(Record, RecordSettings)


def path_problem(value: object, directory: str) -> tuple[str | None, str | None]:
    """What is wrong with the path of a recording, and what may only look wrong to this user; None for nothing."""
    try:
        path = absolute_path(value, directory)
    except ValueError:  # which the model reports
        return None, None
    above = os.path.dirname(path)
    try:
        if not stat.S_ISDIR(os.stat(above).st_mode):
            return "is in something that is not a directory", None
        file = _status_of(path)
        _status_of(f"{path}.{10**DIGITS - 1}")  # older files' names are longer: the system says whether it takes them
    except (OSError, ValueError) as exc:
        reason = (exc.strerror if isinstance(exc, OSError) else None) or "it has no valid name"
        return f"its directory cannot be used: {reason.lower()}", None
    if file is not None and stat.S_ISLNK(file.st_mode):
        return None, "is a symbolic link, and none is followed: nothing is recorded"
    if file is not None and not stat.S_ISREG(file.st_mode):
        return "exists, but is not a regular file", None
    if not os.access(above, os.W_OK | os.X_OK) or (file is not None and not os.access(path, os.W_OK)):
        return None, "cannot be written by this user: the gateway's own must be able to, or nothing is recorded"
    if file is not None and not _is_recording(path):
        return None, "exists, but is not a recording: it is left unchanged, and nothing is recorded"
    return None, None


def _status_of(path: str) -> os.stat_result | None:
    """The file's own status, None where there is none. Raises OSError for a name that no file can have."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def _is_recording(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return is_recording(file.read(len(BEGINS)))
    except OSError:  # the gateway's own user may be able to
        return True
