"""Copies of the configured PEM files, for workers that start while those on the disk are unusable."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import loads
from gateway.http.tls.certificates import Renewal, ServerTLS
from gateway.server.pem_cache import PemCache
from tests.support.faulty import Certificates
from tests.support.secured import Files as Replaced
from tests.support.secured import config


def test_copies_follow_a_renewal_stay_while_files_are_unusable_and_go_with_the_configuration(
    ours: Certificates, theirs: Certificates, tmp_path: Path
) -> None:
    replaced = Replaced(tmp_path, ours.valid)
    loaded = loads(config(replaced.section)).config
    assert loaded.server.tls is not None
    name = loaded.server.tls.files
    pem_cache = PemCache()
    assert pem_cache.copies == {}
    pem_cache.refresh(loaded)
    assert pem_cache.copies[name][0] == ours.valid[0].read_bytes()
    replaced.put(b"broken", replaced.key)
    pem_cache.refresh(loaded)
    assert pem_cache.copies[name][1] == ours.valid[1].read_bytes()
    tls = ServerTLS(name, "1.2", pem_cache.copies)
    with pytest.raises(OSError, match=r"PEM|key|SSL"):
        tls.refresh()
    replaced.install(theirs.valid)
    pem_cache.refresh(loaded)
    assert pem_cache.copies[name][1] == theirs.valid[1].read_bytes()
    assert tls.refresh() is Renewal.CERTIFICATE
    pem_cache.refresh(loads("apps: {a: {static: allow}}").config)
    assert pem_cache.copies == {}


def test_files_that_were_never_usable_have_no_copies(ours: Certificates, tmp_path: Path) -> None:
    replaced = Replaced(tmp_path, ours.valid)
    loaded = loads(config(replaced.section)).config
    replaced.put(b"broken", replaced.certificate)
    pem_cache = PemCache()
    pem_cache.refresh(loaded)
    assert pem_cache.copies == {}
