"""Copies of the configuration's PEM files, for workers that start while those on the disk are unusable."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

from gateway.config import Config
from gateway.http.tls.certificates import FileBacked, client_context, server_context
from gateway.http.tls.pem_files import Contents, Copies, Files, copy_files
from gateway.upstreams.mirror import candidate_upstreams


class PemCache:
    """What the files in force contained when they were last usable."""

    def __init__(self) -> None:
        self._kept: dict[Files, FileBacked[Contents]] = {}

    @property
    def copies(self) -> Copies:
        """Contents by the set of paths that they were read from."""
        return {files: kept.value for files, kept in self._kept.items()}

    def refresh(self, config: Config) -> None:
        """Copy what is new; for unusable files the last usable copies stay. Blocks."""
        kept = {}
        for files, check in _file_sets(config):
            with contextlib.suppress(OSError):  # those that use the files report it
                if (known := self._kept.get(files)) is None:
                    known = FileBacked(files, functools.partial(copy_files, check=check))
                kept[files] = known
                known.refresh()
        self._kept = kept


def _file_sets(config: Config) -> Iterator[tuple[Files, Callable[[Files], object]]]:
    """Files that belong together, and what raises where they are unusable."""
    if (server := config.server.tls) is not None:
        yield server.files, functools.partial(server_context, minimum_version=server.minimum_version)
    for upstream in {**config.upstreams, **candidate_upstreams(config)}.values():
        if (tls := upstream.tls) is not None and any(tls.files):
            yield tls.files, functools.partial(client_context, minimum_version=tls.minimum_version)
