"""Copies of PEM files: only of what fits together, and taken only where the files themselves are of no use."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest

from gateway.http.tls.certificates import FileBacked, ServerTLS, days_to_expiry, server_context
from gateway.http.tls.pem_files import Files, copy_files, in_memory
from tests.support.faulty import Certificates


def field_text(files: Files) -> str:
    """All of these files' contents, in turn."""
    texts = [Path(file).read_text() for file in files if file is not None]
    if "broken" in texts:
        raise OSError("a broken file")
    return " ".join(texts)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, ...]:
    paths = tmp_path / "one", tmp_path / "two"
    for path in paths:
        path.write_text(path.name)
    return tuple(map(str, paths))


def test_what_is_in_memory_reads_like_files_and_is_gone_afterwards() -> None:
    with in_memory((b"one", None, b"two")) as paths:
        assert paths[1] is None
        assert field_text(paths) == "one two"
        assert field_text(paths) == "one two"  # a second time, too
    with pytest.raises(OSError, match="No such file"):
        field_text(paths)


def test_files_that_are_of_use_are_taken_whatever_copies_there_are(files: Files) -> None:
    made = FileBacked(files, field_text, {files: (b"old", b"copies")})
    assert made.value == "one two"
    assert not made.refresh()


@pytest.mark.parametrize("content", ["broken", None])
def test_where_files_are_of_no_use_their_copies_are_until_they_are_mended(files: Files, content: str | None) -> None:
    second = Path(str(files[1]))
    second.unlink()
    if content is not None:
        second.write_text(content)
    with pytest.raises(OSError, match=r"broken|No such file"):
        FileBacked(files, field_text)
    with pytest.raises(OSError, match=r"broken|No such file"):
        FileBacked(files, field_text, {(files[0],): (b"another's",)})
    made = FileBacked(files, field_text, {files: (b"old", b"copies")})
    assert made.value == "old copies"
    with pytest.raises(OSError, match=r"broken|No such file"):
        made.refresh()  # said once
    assert not made.refresh()
    second.write_text("mended")
    assert made.refresh()
    assert made.value == "one mended"


def test_copies_are_made_of_what_fits_together_alone(ours: Certificates, theirs: Certificates) -> None:
    certificate, key = map(str, ours.valid)
    contents = copy_files((certificate, key, None), lambda files: server_context(files, "1.2"))
    assert contents == (ours.valid[0].read_bytes(), ours.valid[1].read_bytes(), None)
    for pair in ((certificate, str(theirs.valid[1])), (key, key)):
        with pytest.raises(ssl.SSLError):
            copy_files((*pair, None), lambda files: server_context(files, "1.2"))


@pytest.mark.parametrize("what", ["a pipe", "a directory", "a device"])
def test_what_could_keep_its_reader_waiting_for_ever_is_an_error_at_once(
    ours: Certificates, tmp_path: Path, what: str
) -> None:
    odd = tmp_path / "odd.pem"
    match what:
        case "a pipe":
            os.mkfifo(odd)
        case "a directory":
            odd.mkdir()
        case _:
            odd.symlink_to("/dev/zero")
    _, key = map(str, ours.valid)
    for attempt in (
        lambda: ServerTLS((str(odd), key, None), "1.2"),
        lambda: copy_files((str(odd), key, None), lambda files: server_context(files, "1.2")),
        lambda: days_to_expiry(odd),
    ):
        with pytest.raises(OSError, match=r"regular|directory"):
            attempt()
