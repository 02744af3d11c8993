"""Loading a configuration, for start, check and reload: read it, check it, and report everything that is wrong."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from gateway.config.checks.cross import CrossChecks
from gateway.config.checks.explain import explain
from gateway.config.checks.shape import mask_secrets
from gateway.config.sections.root import Config
from gateway.config.sections.tls import validation_context
from gateway.config.source.document import MAX_BYTES, Document, parse
from gateway.config.source.files import ReadError, read_bytes, read_text
from gateway.config.source.problems import MAX_PROBLEMS, ConfigError, NameSuggester, Problem, describe_defect
from gateway.config.source.problems import Path as KeyPath

_SIZE_TEXT: Final = "16 MiB"
_NOT_FOUND: Final = "not found (use -c FILE, or start from the gateway.yaml that comes with the gateway)"
_LASTING: Final = frozenset((errno.EACCES, errno.ELOOP))
"""Errors that last until the file itself changes; a missing file may be about to be replaced."""
_MAX_ERRORS: Final = 100_000
"""Pydantic describes its errors all at once, at about 1 kB each."""


BuildCheck = Callable[[Config], Iterable[tuple[KeyPath, str]]]
"""Reports the values of a configuration that passed all checks, but from which nothing can be built, and why."""


def _accept(config: Config) -> Iterable[tuple[KeyPath, str]]:
    return ()


@dataclass(frozen=True)
class Loaded:
    """A configuration that can be used."""

    config: Config
    warnings: tuple[Problem, ...]
    """What looks mistaken but is allowed, by position."""
    masked: dict[str, Any]
    """The file as written, references unexpanded and literal secrets masked."""
    path: Path
    digest: str
    """SHA-256 of the file's text: whether another look at it is the same."""


def text_digest(text: str) -> str:
    """What ``Loaded.digest`` would be for this text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def file_digest(path: Path) -> str | None:
    """The digest of the text in this file, or the reason it cannot be read; None if that may pass by itself."""
    try:
        return text_digest(read_bytes(path, MAX_BYTES, _SIZE_TEXT).decode("utf-8", "replace"))
    except ReadError as exc:
        cause = exc.__cause__
        return None if isinstance(cause, OSError) and cause.errno not in _LASTING else str(exc)


def load(path: str | Path, check_build: BuildCheck = _accept) -> Loaded:
    """Read and check a configuration file; *check_build* comes last. Raises ConfigError with every problem."""
    try:
        text = read_text(path, MAX_BYTES, _SIZE_TEXT)
    except ReadError as exc:
        if isinstance(exc.__cause__, FileNotFoundError):
            raise ConfigError([Problem(str(path), 0, 0, "", _NOT_FOUND)]) from exc
        raise ConfigError([Problem(str(path), 1, 1, "", f"cannot be read: {exc}")]) from exc
    return _load(text, str(path), check_build)


def loads(text: str, name: str = "gateway.yaml", check_build: BuildCheck = _accept) -> Loaded:
    """Check a configuration's text; *name* is the file's name in messages. Raises ConfigError."""
    if len(text) > MAX_BYTES:
        raise ConfigError([Problem(name, 1, 1, "", "cannot be read: it is larger than 16 MiB")])
    return _load(text, name, check_build)


def _load(text: str, name: str, check_build: BuildCheck) -> Loaded:
    try:
        return _check(text, name, check_build)
    except ConfigError:
        raise
    except Exception as exc:
        unforeseen = Problem(name, 1, 1, "", describe_defect(exc))
    # Raised out here, and so without a cause: its words may quote a secret.
    raise ConfigError([unforeseen])


def _check(text: str, name: str, check_build: BuildCheck) -> Loaded:
    document = parse(text, name)
    data = document.plain()
    suggester = NameSuggester()
    directory = os.path.dirname(os.path.abspath(name))
    config, problems = _validate(document, data, suggester, directory)
    checks = CrossChecks(document, data, suggester, directory)
    problems += [*document.problems, *checks.problems]
    if config is None or problems:
        raise ConfigError(problems)
    if problems := [document.problem(path, message) for path, message in check_build(config)]:
        raise ConfigError(problems)
    warnings = sorted(checks.warnings, key=lambda it: (it.line, it.column, it.path))
    digest = text_digest(text)
    config.set_revision(digest)
    return Loaded(config, tuple(warnings), mask_secrets(document), Path(name), digest)


def _validate(
    document: Document, data: dict[str, Any], suggester: NameSuggester, directory: str
) -> tuple[Config | None, list[Problem]]:
    """The model, or what keeps it from being built. Pydantic's error holds secrets, so it goes no further."""
    try:
        return Config.model_validate(data, context=validation_context(directory)), []
    except ValidationError as exc:
        count = exc.error_count()
        errors = exc.errors(include_url=False, include_input=False) if count <= _MAX_ERRORS else []
    except Exception as exc:
        return None, [document.problem(_find_defective_part(data, directory), describe_defect(exc))]
    if count > _MAX_ERRORS:
        message = f"{count:,} values are wrong, too many to list: this is probably not a configuration of the gateway"
        return None, [document.problem((), message)]
    found = (explain(document, error, suggester) for error in errors[: MAX_PROBLEMS + 1])
    return None, [problem for problem in found if problem is not None]


def _find_defective_part(data: dict[str, Any], directory: str) -> KeyPath:
    """The part of the file at which the model fails in an unforeseen way; the whole file if it is not a single one."""
    for path, part in _parts(data):
        try:
            Config.model_validate(part, context=validation_context(directory))
        except ValidationError:
            pass
        except Exception:
            return path
    return ()


def _parts(data: dict[str, Any]) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """Each entry of each section by itself, then each section."""
    for section, content in data.items():
        if isinstance(content, dict):
            yield from (((section, key), {section: {key: value}}) for key, value in content.items())
    yield from (((section,), {section: content}) for section, content in data.items())
