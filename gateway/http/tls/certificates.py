"""TLS contexts from files, reloaded when the files change, and how long certificates last."""

from __future__ import annotations

import os
import ssl
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum, auto
from pathlib import Path
from typing import Final, Generic, NamedTuple, Self, TypeVar

from gateway.http.tls.pem_files import NO_COPIES, Copies, Files, in_memory, read_regular, snapshot_files

_VERSIONS: Final = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
_DAY: Final = 86400.0
_T = TypeVar("_T")


class FileBacked(Generic[_T]):
    """A value made of files, and made again when they have changed."""

    def __init__(self, files: Files, make: Callable[[Files], _T], copies: Copies = NO_COPIES) -> None:
        """If the files cannot be used, the value is made of their *copies*, if there are any.

        ``refresh`` then reports that once, as for changed files, and uses the files when they have been fixed. Raises
        what *make* raises, OSError if a file is missing.
        """
        self._files = files
        self._make = make
        self._seen: object = self._file_stamps()
        self._unfit: object = None
        try:
            self.value = self._make_value()
        except OSError:
            if files not in copies:
                raise
            with in_memory(copies[files]) as paths:
                self.value = make(paths)
            self._seen = None

    def refresh(self) -> bool:
        """Make it again if the files have changed; returns whether it was.

        Raises OSError (ssl.SSLError), and keeps what there is, where they cannot be used: as amid a renewal, when one
        file is new and the other still old. It is raised once for the same files; they are tried again all the same.
        """
        seen = self._file_stamps()
        if seen == self._seen:
            self._unfit = None
            return False
        try:
            self.value = self._make_value()
        except OSError:
            if seen == self._unfit:
                return False
            self._unfit = seen
            raise
        self._seen, self._unfit = seen, None
        return True

    def _make_value(self) -> _T:
        with snapshot_files(self._files) as paths:
            return self._make(paths)

    def _file_stamps(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(map(_stamp, self._files))


def _stamp(file: str | None) -> tuple[int, int] | None:
    """What changes when a file is replaced; None if there is none."""
    if file is None:
        return None
    try:
        state = os.stat(file)
    except OSError:
        return None
    return state.st_mtime_ns, state.st_ino


class _NewestContext(ssl.SSLContext):
    """The context that a listener keeps; it passes every handshake on to the newest one."""

    def __new__(cls, newest: ssl.SSLContext) -> Self:
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, newest: ssl.SSLContext) -> None:
        self.newest = newest

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """A connection of the newest context's; asyncio and uvloop make all of theirs so."""
        return self.newest.wrap_bio(incoming, outgoing, server_side, server_hostname, session)


class Renewal(Enum):
    """What changed files have renewed."""

    NOTHING = auto()
    CERTIFICATE = auto()
    """At most the gateway's own: whom it lets in is as before."""
    AUTHORITIES = auto()
    """Whom ``client_ca`` lets in: connections that are open may be those of somebody who is trusted no more."""


class _Loaded(NamedTuple):
    context: ssl.SSLContext
    authorities: bytes


class ServerTLS:
    """The hook port's TLS; ``refresh()`` takes changed files up for the connections to come.

    A listener keeps the one context that it was given, so that one only hands each handshake over to the newest. Files
    that do not fit together, as amid a renewal, thereby never touch what is in use, and an authority that was taken
    out of ``client_ca`` is trusted no more, not even by resuming a session: no context knows the tickets of another.
    """

    def __init__(self, files: Files, minimum_version: str, copies: Copies = NO_COPIES) -> None:
        """*files*: certificate, key, ``client_ca``. Raises OSError (ssl.SSLError)."""
        self._files = FileBacked(files, lambda paths: _server_side(paths, minimum_version), copies)
        self.context = _NewestContext(self._files.value.context)

    def refresh(self) -> Renewal:
        """Take the files up if they have changed. Raises OSError as FileBacked does, and changes nothing."""
        before = self._files.value
        if not self._files.refresh():
            return Renewal.NOTHING
        self.context.newest = self._files.value.context
        same = self._files.value.authorities == before.authorities
        return Renewal.CERTIFICATE if same else Renewal.AUTHORITIES


def server_context(files: Files, minimum_version: str) -> ssl.SSLContext:
    """A context for the hook port, of certificate, key and ``client_ca``. Raises OSError (ssl.SSLError)."""
    return _server_side(files, minimum_version).context


def _server_side(files: Files, minimum_version: str) -> _Loaded:
    certificate, key, client_ca = files
    assert certificate is not None
    authorities = b"" if client_ca is None else Path(client_ca).read_bytes()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[minimum_version]
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate, key, password=_refuse_to_ask)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return _Loaded(context, authorities)


def client_context(files: Files, minimum_version: str) -> ssl.SSLContext:
    """A context for a backend, of ``ca``, certificate and key: its certificate and host name are always verified.

    Raises OSError (ssl.SSLError).
    """
    ca, certificate, key = files
    context = ssl.create_default_context(cafile=ca)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the operator asks for 1.0 or 1.1 knowingly
        context.minimum_version = _VERSIONS[minimum_version]
    if _VERSIONS[minimum_version] < ssl.TLSVersion.TLSv1_2:
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # OpenSSL 3 refuses the old versions' signatures otherwise
    context.set_alpn_protocols(["http/1.1"])
    if certificate is not None:
        context.load_cert_chain(certificate, key, password=_refuse_to_ask)
    return context


def days_to_expiry(certificate: Path) -> float:
    """Days until the file's first certificate expires, negative if it has. Raises OSError or ValueError."""
    text = read_regular(certificate).decode("ascii", "replace")
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    start = text.index(begin)
    pem = text[start : text.index(end, start) + len(end)]
    return (_not_after(ssl.PEM_cert_to_DER_cert(pem)).timestamp() - time.time()) / _DAY


def _not_after(der: bytes) -> datetime:
    """The end of the validity of a certificate (RFC 5280, section 4.1): the fifth field, or fourth without version."""
    certificate, _ = _element(der, 0)
    fields, _ = _element(certificate[1], 0)
    position = 0
    (tag, _), after = _element(fields[1], position)
    if tag == 0xA0:  # the version, which version 1 leaves out
        position = after
    for _ in range(3):  # serial number, signature algorithm, issuer
        _, position = _element(fields[1], position)
    validity, _ = _element(fields[1], position)
    _, after = _element(validity[1], 0)
    (tag, text), _ = _element(validity[1], after)
    form = "%y%m%d%H%M%SZ" if tag == 0x17 else "%Y%m%d%H%M%SZ"  # UTCTime, GeneralizedTime
    return datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC)


def _element(data: bytes, position: int) -> tuple[tuple[int, bytes], int]:
    """Tag and content of the DER element at a position, and where the next begins. Raises ValueError."""
    try:
        tag, length = data[position], data[position + 1]
    except IndexError as exc:
        raise ValueError("a certificate is cut short") from exc
    position += 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(data[position : position + size], "big")
        position += size
    if position + length > len(data):
        raise ValueError("a certificate is cut short")
    return (tag, data[position : position + length]), position + length


def _refuse_to_ask() -> bytes:
    raise ssl.SSLError("the key is encrypted, and there is nobody to ask for its password")
