"""TLS on both sides: the keys of its sections, and whether the files that they name can be used."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal, NoReturn

from pydantic import ConfigDict, Field, ValidationInfo
from pydantic_core import core_schema

from gateway.config.sections.addresses import find_unfit_for_path, is_host
from gateway.config.sections.fields import Section
from gateway.config.sections.types import (
    NotNull,
    Value,
    checked_text,
    either,
    invalid,
    invalid_value,
    read_value,
    text_schema,
)
from gateway.config.source.files import ReadError, check_readable
from gateway.config.source.problems import quote
from gateway.http.tls.pem_files import snapshot_files

MAX_FILE: Final = 4 * 1024 * 1024
"""Bytes; a whole system's authorities take a quarter of a megabyte."""
_MAX_PATH: Final = 4095
_PATH_FORM: Final = "must be the path of a file: absolute, or from the directory of the configuration"
_CONTEXT: Final = "directory"


def validation_context(directory: str) -> dict[str, str]:
    """The validation context in which relative paths start at *directory*."""
    return {_CONTEXT: directory}


def absolute_path(value: object, directory: str) -> str:
    """The file that a value of the configuration names. Raises ValueError; the value itself is never in the message,
    since a key may be written where its path was meant.
    """
    if not isinstance(value, str) or not value or find_unfit_for_path(value) or len(value) > _MAX_PATH:
        raise ValueError(_PATH_FORM)
    return os.path.join(directory, value)


def context_directory(info: ValidationInfo) -> str:
    """The directory at which relative paths start."""
    return str(info.context[_CONTEXT]) if info.context else os.getcwd()


def _read_path(value: object, info: ValidationInfo) -> str:
    try:
        return absolute_path(value, context_directory(info))
    except ValueError as exc:
        raise invalid(str(exc)) from exc


def _version(*versions: str) -> Value:
    """Annotates ``str``: a version of TLS; 1.2 without quotes is a number to YAML, and means the same."""
    form = f"must be {either(versions)}"

    def read(value: object) -> str:
        text = str(value) if isinstance(value, float) else value
        if not isinstance(text, str) or text not in versions:
            raise invalid_value(form)
        return text

    return read_value(form, read, {"enum": [*versions, *map(float, versions)]})


def _server_name(text: str) -> str:
    if not is_host(text):
        raise ValueError("must be a host name such as legacy.example.com, or an IP address")
    return text


FilePath = Annotated[
    str,
    Value(
        _PATH_FORM,
        core_schema.with_info_plain_validator_function(_read_path),
        text_schema(r"[^\x00-\x1f\x7f]+", "/etc/gateway/certificate.pem", "certificate.pem"),
    ),
]
"""A path, made absolute."""
ServerName = Annotated[str, checked_text(_server_name, r"[A-Za-z0-9._:-]+", "legacy.example.com")]


class ServerTls(Section):
    """TLS on the hook port. Changed files are loaded within a minute, without a restart."""

    certificate: FilePath = Field(
        description="PEM file with the gateway's certificate, then those that lead to its authority. Required. It "
        "must contain the host name by which the media server calls the gateway. Relative paths start at the "
        "directory of this file."
    )
    key: FilePath = Field(
        description="PEM file with the certificate's private key, not encrypted. Required. Keep it readable by the "
        "gateway's user only."
    )
    client_ca: Annotated[FilePath | None, NotNull()] = Field(
        default=None,
        description="PEM file with the authorities whose client certificates are accepted; a client that shows no "
        "such certificate cannot connect. When the file changes, connections made before it are closed. Default: no "
        "certificate is required. With a public authority, anyone who has a certificate of that authority can connect.",
    )
    minimum_version: Annotated[Literal["1.2", "1.3"], _version("1.2", "1.3")] = Field(
        default="1.2",
        description="Oldest accepted version of TLS: 1.2 or 1.3. Default 1.2. With 1.3, old Java clients cannot "
        "connect.",
    )

    @property
    def files(self) -> tuple[str | None, ...]:
        """The paths of the files that belong together: ``certificate``, ``key``, ``client_ca``."""
        return self.certificate, self.key, self.client_ca


class UpstreamTls(Section):
    """TLS to https targets. Their certificates are always verified; changed files are loaded within a minute."""

    model_config = ConfigDict(
        json_schema_extra={"dependentRequired": {"certificate": ["key"], "key": ["certificate"]}},
    )

    ca: Annotated[FilePath | None, NotNull()] = Field(
        default=None,
        description="PEM file with the authorities that are trusted, in place of the system's; for a self-signed "
        "backend, its certificate. Default: the system's. Relative paths start at the directory of this file.",
    )
    certificate: Annotated[FilePath | None, NotNull()] = Field(
        default=None,
        description="PEM file with the certificate that the gateway shows to the backend. Default none. It needs key "
        "too.",
    )
    key: Annotated[FilePath | None, NotNull()] = Field(
        default=None,
        description="PEM file with that certificate's private key, not encrypted. Default none. Keep it readable by "
        "the gateway's user only.",
    )
    minimum_version: Annotated[Literal["1.0", "1.1", "1.2", "1.3"], _version("1.0", "1.1", "1.2", "1.3")] = Field(
        default="1.2",
        description="Oldest accepted version of TLS: 1.0, 1.1, 1.2 or 1.3. Default 1.2. 1.0 and 1.1 are for backends "
        "that support nothing newer; an attacker on the network can break them.",
    )
    server_name: Annotated[ServerName | None, NotNull()] = Field(
        default=None,
        description="Name that the backend's certificate must contain, and that is sent as SNI, if the targets' URLs "
        "have another. Default: the host of each URL. A name that the certificate lacks makes the targets unreachable.",
    )

    @property
    def files(self) -> tuple[str | None, ...]:
        """The paths of the files that belong together: ``ca``, ``certificate``, ``key``."""
        return self.ca, self.certificate, self.key


# --- the files ---


class _EncryptedError(Exception):
    """A key wants a password."""


class TlsFiles:
    """Checks the files of ``tls`` sections, each of them once."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._problems: dict[tuple[str, bool], str | None] = {}
        self._misfits: dict[tuple[str, str, bool], tuple[str, str] | None] = {}

    def problems(self, section: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        """What is wrong with a section's files, as key and message; never their names or content.

        Values that are not paths are skipped.
        """
        usable: dict[str, str] = {}
        for key in ("certificate", "key", "client_ca", "ca"):
            try:
                path = absolute_path(section.get(key), self._directory)
            except ValueError:
                continue
            problem = self._problem(path, is_key=key == "key")
            if problem is None:
                usable[key] = path
            elif path != section[key]:
                yield key, f"{problem} (relative paths start at {quote(self._directory, 200)})"
            else:
                yield key, problem
        if "certificate" in usable and "key" in usable:
            is_weak_fine = str(section.get("minimum_version")) in {"1.0", "1.1"}
            pair = (usable["certificate"], usable["key"], is_weak_fine)
            if pair not in self._misfits:
                self._misfits[pair] = _misfit(*pair)
            if (found := self._misfits[pair]) is not None:
                yield found

    def _problem(self, path: str, *, is_key: bool) -> str | None:
        if (path, is_key) not in self._problems:
            self._problems[path, is_key] = _unreadable(path) or (None if is_key else _no_certificate(path))
        return self._problems[path, is_key]


def _unreadable(path: str) -> str | None:
    try:
        check_readable(path, MAX_FILE, "4 MiB")
    except ReadError as exc:
        return f"the file cannot be read: {exc}"
    return None


def _no_certificate(path: str) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        with snapshot_files((path,)) as (file,):
            context.load_verify_locations(cafile=file)
    except OSError:  # SSLError among them, with OpenSSL's words for programmers
        return "the file holds no certificate in PEM form"
    return None if context.cert_store_stats()["x509"] else "the file holds no certificate in PEM form"


def _misfit(certificate: str, key: str, is_weak_fine: bool) -> tuple[str, str] | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if is_weak_fine:  # backends that need TLS 1.0 have certificates of that time
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    try:
        with snapshot_files((certificate, key)) as (chain, private):
            assert chain is not None
            context.load_cert_chain(chain, private, password=_reject_encrypted)
    except _EncryptedError:
        return (
            "key",
            "the key is encrypted, and the gateway cannot ask for its password: store it decrypted, readable by the "
            "gateway's user only",
        )
    except ssl.SSLError as exc:
        reason = exc.reason or ""
    except OSError:  # gone since it was looked at
        reason = ""
    else:
        return None
    if reason.endswith(("_TOO_SMALL", "_TOO_WEAK")):
        return "certificate", f"OpenSSL rejects the certificate as too weak: {reason.replace('_', ' ').lower()}"
    if reason in {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}:
        return "key", "the key does not belong to the certificate"
    return "key", "the file holds no private key in PEM form"


def _reject_encrypted() -> NoReturn:
    raise _EncryptedError
