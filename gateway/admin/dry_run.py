"""The dry run of a configuration: what serving needs is built once, and dropped. Nothing is opened to or from outside.

``prove`` does so for check, start and reload, part by part: the checks find what is wrong and describe it better, and
what they overlook becomes a problem of one key. Then each worker prepares the configuration before any commits it;
``build_runtime`` does the same where no worker is there to do it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx

from gateway import config as configuration
from gateway.config import Config, KeyPath, Loaded, Upstream, describe_defect
from gateway.config.sections.upstreams import target_names
from gateway.http.client.transport import url_origin
from gateway.http.tls.certificates import client_context, server_context
from gateway.http.tls.pem_files import NO_COPIES, Copies
from gateway.policy.access import ClientAddresses
from gateway.policy.breaker import Breaker
from gateway.policy.sampling import Sample
from gateway.proxy.routes import Table
from gateway.proxy.runtime import Runtime
from gateway.recording import RecordSettings
from gateway.recording.masking import Mask
from gateway.recording.pseudonyms import Pseudonyms
from gateway.telemetry.metrics import Metrics
from gateway.upstreams.balance import balancer
from gateway.upstreams.headers import CompiledPolicy
from gateway.upstreams.health import check_url
from gateway.upstreams.mirror import candidate_upstreams
from gateway.upstreams.upstream import header_policy

_Part = tuple[KeyPath, Callable[[], object]]
_ANY_METHOD = "/OnCallEvent"


def load(path: str | Path) -> Loaded:
    """Read and check a configuration file, and prove that it can be served. Raises ConfigError with every problem."""
    return configuration.load(path, prove)


async def build_runtime(config: Config, copies: Copies = NO_COPIES) -> None:
    """Build what a worker decides hooks with, whole, and drop it. Raises what keeps it from being built."""
    runtime = Runtime(config, Metrics("dry run"), copies)
    await runtime.aclose()


def prove(config: Config) -> Iterator[tuple[KeyPath, str]]:
    """The key paths of what cannot be built, each with the reason."""
    for path, build in _parts(config):
        try:
            build()
        except OSError as exc:  # files that were there when they were checked
            yield path, f"cannot be used: {(exc.strerror or type(exc).__name__).lower()}"
        except Exception as exc:
            yield path, describe_defect(exc)


def _parts(config: Config) -> Iterator[_Part]:
    server = config.server
    for key in ("allow_from", "trusted_proxies", "proxy_protocol"):
        yield ("server", key), partial(ClientAddresses, getattr(server, key))
    if server.tls is not None:
        yield ("server", "tls"), partial(server_context, server.tls.files, server.tls.minimum_version)
    if config.tracing is not None:
        endpoint, headers = config.tracing.endpoint, config.tracing.headers
        yield (
            ("tracing",),
            partial(_request, f"{endpoint}/v1/traces", {k: v.get_secret_value() for k, v in headers.items()}),
        )
    if config.record is not None:
        yield ("record",), partial(_recording, config.record)
    secured = set()
    for name, upstream in config.upstreams.items():
        path: KeyPath = ("upstreams", name)
        yield path, partial(_upstream, upstream)
        if upstream.tls is not None and upstream.tls not in secured:
            secured.add(upstream.tls)
            yield (*path, "tls"), partial(client_context, upstream.tls.files, upstream.tls.minimum_version)
    yield from _apps(config)


def _apps(config: Config) -> Iterator[_Part]:
    """All apps at once; one by one only where that fails, to find those that it is."""
    try:
        _routes(config)
    except Exception:
        for name, app in config.apps.items():
            alone = config.model_copy(update={"apps": {name: app}, "unknown_app": "reject"})
            yield ("apps", name), partial(_routes, alone)
        yield ("apps",), partial(_routes, config)


def _routes(config: Config) -> None:
    Table(config)
    candidate_upstreams(config)


def _upstream(config: Upstream) -> None:
    CompiledPolicy(header_policy(config, keep_underscores=False))
    balancer(config.balance)
    if config.breaker is not None:
        Breaker().configure(config.breaker)
    target_names([target.url for target in config.targets])
    for target in config.targets:
        url = httpx.URL(target.url + _ANY_METHOD)
        url_origin(url)
        if config.health is not None:
            check_url(url, config.health)


def _request(url: str, headers: dict[str, str]) -> None:
    httpx.Request("POST", url, headers=headers)


def _recording(settings: RecordSettings) -> None:
    Mask(settings.mask, Pseudonyms(settings.key))
    Sample(settings.sample)
