"""Certificates of an authority of the tests' own, right and wrong ones, and a backend that shows them."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.faulty.backend import FaultyBackend
from tests.support.programs import require


class Certificates(NamedTuple):
    """Paths of PEM files, made for one test run by a certificate authority of its own."""

    ca: Path
    """What a client must trust to accept *valid*."""
    valid: tuple[Path, Path]
    """Certificate and key for 127.0.0.1 and localhost."""
    expired: tuple[Path, Path]
    wrong_host: tuple[Path, Path]
    """For elsewhere.example alone."""
    self_signed: tuple[Path, Path]
    client: tuple[Path, Path]
    """For a client that proves who it is; signed by the same authority."""

    def server(self, kind: str, *, ask_client: bool = False) -> ssl.SSLContext:
        """The TLS settings of a server that shows one of the certificates (by the name of its field)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate, key = getattr(self, kind)
        context.load_cert_chain(certificate, key)
        if ask_client:
            context.load_verify_locations(self.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def make_certificates(directory: Path) -> Certificates:
    """Make all certificates with the openssl command; without it the test is skipped, or failed under ``CI=true``."""
    require("openssl", "openssl")
    address = "IP:127.0.0.1,DNS:localhost"
    ca = _signed(directory, "ca", "keyUsage=critical,keyCertSign,cRLSign\nbasicConstraints=critical,CA:TRUE", None)
    return Certificates(
        ca=ca[0],
        valid=_signed(directory, "valid", f"subjectAltName={address}", ca),
        expired=_signed(directory, "expired", f"subjectAltName={address}", ca, days=-1),
        wrong_host=_signed(directory, "wrong_host", "subjectAltName=DNS:elsewhere.example", ca),
        self_signed=_signed(directory, "self_signed", f"subjectAltName={address}", None),
        client=_signed(directory, "client", "extendedKeyUsage=clientAuth", ca),
    )


def _signed(
    directory: Path, name: str, extensions: str, issuer: tuple[Path, Path] | None, days: int = 2
) -> tuple[Path, Path]:
    certificate, key, request = (directory / f"{name}.{suffix}" for suffix in ("pem", "key", "csr"))
    extension_file = directory / f"{name}.ext"
    extension_file.write_text(extensions + "\n")
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", key)
    _openssl("req", "-new", "-key", key, "-subj", f"/CN=test {name}", "-out", request)
    signer = ("-signkey", key) if issuer is None else ("-CA", issuer[0], "-CAkey", issuer[1], "-CAcreateserial")
    _openssl(
        "x509",
        "-req",
        "-in",
        request,
        *signer,
        "-days",
        str(days),
        "-sha256",
        "-extfile",
        extension_file,
        "-out",
        certificate,
    )
    return certificate, key


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)


@contextlib.contextmanager
def tls_backend(certificates: Certificates, kind: str, *, ask_client: bool = False) -> Iterator[FaultyBackend]:
    """A FaultyBackend behind TLS that shows the certificate *kind*: valid, expired, wrong_host or self_signed."""
    with FaultyBackend(certificates.server(kind, ask_client=ask_client)) as backend:
        yield backend
