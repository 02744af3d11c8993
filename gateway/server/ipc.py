"""The messages between supervisor and worker, beside those of ``channel``."""

from __future__ import annotations

from typing import Any, NamedTuple

from gateway.admin.rpc import RpcRequest
from gateway.config import Config
from gateway.http.tls.pem_files import NO_COPIES, Copies


class Build(NamedTuple):
    """To a worker, first and once: build what decides hooks by this configuration, and send ``Built``."""

    serial: int
    config: Config
    actions: tuple[RpcRequest[Any], ...] = ()
    """The operator's actions in force when the worker started."""
    copies: Copies = NO_COPIES
    """Of PEM files, where those on the disk are unusable."""


class Serve(NamedTuple):
    """To a worker, once: serve, by the last configuration that it committed, and send ``Ready``."""


class Prepare(NamedTuple):
    """To a worker: prepare this configuration, and send ``Prepared``."""

    serial: int
    config: bytes
    """Pickled: once for all workers, and unpickled where a failure is one of the reload, not of the channel."""


class Commit(NamedTuple):
    """To a worker: put the prepared configuration with this serial in force, and send ``Committed``."""

    serial: int


class Discard(NamedTuple):
    """To a worker: the configuration with this serial, prepared or not, will not be in force."""

    serial: int


class Ask(NamedTuple):
    """To a worker: answer the request in ``ReplyPart``s with this number."""

    number: int
    request: RpcRequest[Any]


class Built(NamedTuple):
    """From a worker: it can serve, and takes part in reloads from now on."""


class TargetEjected(NamedTuple):
    """From a worker: a target fails so much that it is ejected for every app; sent where a fleet is to know it."""

    upstream: str
    url: str


class Prepared(NamedTuple):
    """From a worker: the configuration with this serial is prepared, or the reason why it cannot be."""

    serial: int
    error: str | None = None


class Committed(NamedTuple):
    """From a worker: the configuration with this serial is in force, or the reason why the previous one still is."""

    serial: int
    error: str | None = None
