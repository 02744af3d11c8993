"""PEM files that were replaced by something that has no end, or that nobody writes to."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from gateway.http.tls.certificates import FileBacked, days_to_expiry, server_context
from gateway.http.tls.pem_files import copy_files

KINDS = ["pipe", "/dev/zero", "directory", "sparse", "missing"]


def odd(kind: str, directory: Path) -> Path:
    path = directory / "odd.pem"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(2**40)
    elif kind.startswith("/"):
        path.symlink_to(kind)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_none_is_refused_at_once_and_not_named(kind: str, tmp_path: Path) -> None:
    path = odd(kind, tmp_path)
    files = (str(path), str(path), str(path))

    def look() -> None:
        for use in (
            lambda: FileBacked(files, lambda paths: server_context(paths, "1.2")),
            lambda: copy_files(files, lambda paths: None),
            lambda: days_to_expiry(path),
        ):
            with pytest.raises(OSError, match=r"file|large|directory") as caught:
                use()
            refused.append(str(caught.value))

    refused: list[str] = []
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(20)
    assert len(refused) == 3
    assert not any(path.name in why for why in refused)


@pytest.mark.parametrize("kind", KINDS)
def test_a_renewal_by_such_a_file_keeps_what_there_is(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.pem"
    path.write_text("first")
    made = FileBacked((str(path),), lambda paths: Path(str(paths[0])).read_text())
    path.unlink()
    odd(kind, tmp_path)
    with pytest.raises(OSError, match=r"file|large|directory"):
        made.refresh()
    assert made.value == "first"
