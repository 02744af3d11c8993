"""What decides hooks in a process, alone or as one of several workers: runtime, hook listener, metrics and log."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import socket
from collections.abc import Sequence
from functools import partial
from typing import Final

from gateway.admin.rpc import RpcHandler
from gateway.config import Config
from gateway.fleet.hooks import FleetHooks
from gateway.http.server import LINGER, FrontLimits, FrontState, enforce_limits
from gateway.http.server.proxy_header import BadProxyHeader
from gateway.http.server.proxy_receiver import PeerLeft
from gateway.http.tls.certificates import Renewal, ServerTLS
from gateway.http.tls.handshakes import FailedHandshake, HandshakeFault, peer_name
from gateway.http.tls.pem_files import NO_COPIES, Copies
from gateway.model.change import Change, Changes, Swap, prepare
from gateway.model.decision import Decision
from gateway.model.keep_going import KeepGoing
from gateway.policy.access import Client, ClientAddresses
from gateway.policy.shadow import ShadowResult
from gateway.policy.shared import SharedState
from gateway.policy.spooling import RESERVE
from gateway.proxy.endpoint import HookEndpoint
from gateway.proxy.endpoint import Listener as DecisionListener
from gateway.proxy.fleet_endpoint import fleet_endpoint
from gateway.proxy.redelivery import Redelivery
from gateway.proxy.runtime import Runtime
from gateway.proxy.sessions import Sessions
from gateway.recording import Recorder
from gateway.server import fd_limits
from gateway.server.app import hook_app
from gateway.server.listener import Listener, wait_until_started
from gateway.server.loop_lag import LoopLagMonitor
from gateway.store.client import StoreClient
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.history import HistoryRecorder
from gateway.telemetry.journal import Journal
from gateway.telemetry.log import LogWriter, prepare_logging
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tracing import Tracing
from gateway.upstreams.mirror import ResultListener

logger = logging.getLogger(__name__)

LOOK_AT_CERTIFICATES_EVERY = 60.0
"""Seconds between two looks at the files of certificates."""
_PREPARE_LIMIT: Final = 60.0
"""Seconds for a new configuration to be built; after that the old one stays."""
_M_MMAP_THRESHOLD: Final = -3
_LARGE: Final = 64 * 1024
_GC_THRESHOLDS: Final = (20_000, 20, 50)
"""Instead of Python's (700, 10, 10), with which the collector took 5 % of a hook's CPU time (measured)."""


class HookService:
    """Serves hooks on the given sockets. Build it inside a running loop."""

    def __init__(
        self,
        config: Config,
        sockets: Sequence[socket.socket],
        metrics: Metrics,
        writer: LogWriter,
        *,
        listeners: tuple[DecisionListener, ...] = (),
        sessions: Sessions | None = None,
        copies: Copies = NO_COPIES,
        shared: SharedState | None = None,
        store: StoreClient | None = None,
    ) -> None:
        """*shared*: what several workers have in common; None where this process is the only one.

        *store*: where events are kept; it is started and closed by the caller. None where none is configured.
        """
        self._writer = writer
        self._access = AccessLog(writer)
        self._prepare_log(config).commit()
        writer.on_drop = metrics.log_dropped.inc
        self.runtime = Runtime(config, metrics, copies, shared)
        journal = Journal()
        consumers = (metrics.record, self._access.record, journal.record, *listeners)
        sessions = Sessions() if sessions is None else sessions
        sessions.on_settings_dropped = metrics.unkept_settings.inc
        self._fleet = None if config.state is None else FleetHooks(config.state, metrics)
        endpoint = self._endpoint = (
            HookEndpoint(self.runtime, consumers, sessions, store)
            if self._fleet is None
            else fleet_endpoint(self.runtime, consumers, sessions, self._fleet, keeper=store)
        )
        self._store = store
        self._redelivery = None if store is None else Redelivery(self.runtime, store)
        self._history = (
            None if store is None else HistoryRecorder(store, metrics.history_dropped.inc, endpoint.keep_with)
        )
        self.runtime.shadows.on_result = _shadow_listener(journal, self._history)
        self._tracing = Tracing(metrics, endpoint.trace_with)
        self._recorder = Recorder(
            lambda outcome, hooks: metrics.recorded_hooks.with_labels(outcome).inc(hooks), endpoint.record_with
        )
        self._lag_monitor = LoopLagMonitor(asyncio.get_running_loop(), metrics.held_up.inc)
        self._config = config
        self._front = FrontState(_limits(config), LINGER, endpoint.refuse)
        self._front.addresses = _client_addresses(config)
        self._front.on_drop = metrics.dropped_connections.with_labels("limit").inc
        self._front.on_bad_header = self._record_bad_header
        self._bad_headers = metrics.dropped_connections.with_labels("proxy_header")
        self._tls = _server_tls(config, copies)
        self._listener = Listener(
            hook_app(endpoint),
            sockets,
            self._front,
            grace=config.server.drain_timeout,
            tls=None if self._tls is None else self._tls.context,
            on_failed_handshake=self._record_failed_handshake,
            accept_order=None if shared is None else shared.accept_order,
        )
        self.rpc_handler = RpcHandler(journal, self.runtime, self._drain)
        """Answers the admin port's requests for this process."""
        self._failed_handshakes = {fault: metrics.failed_handshakes.with_labels(fault) for fault in HandshakeFault}
        self._changing = asyncio.Lock()
        """Held while a configuration is prepared or settled, or renewed certificates are put in force."""
        self._prepared: tuple[Config, Change] | None = None
        """A configuration that is ready, to be committed or discarded."""
        self._started = asyncio.Event()
        self._keep_renewing = KeepGoing("the check for renewed certificates")
        self._serving: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when hooks are accepted."""
        self._refresh_tls()  # reports it where the service starts with copies
        await self.runtime.start()
        await self._tracing.begin(self._config)
        self._recorder.configure(self._config.record)
        self._prepare_history(self._config).commit()
        if self._store is not None:
            await self._store.wait_for_start()  # else the first events after a restart could not be kept
        if self._fleet is not None:
            await self._fleet.start()
        self._serving = asyncio.create_task(self._listener.run_until_stopped())
        await wait_until_started([self._listener], [self._serving])
        _tune_gc()
        _return_large_buffers()
        self._renewing = asyncio.create_task(self._renew_tls_periodically())
        self._lag_monitor.start()
        self._started.set()

    async def reload(self, config: Config) -> None:
        """Put a new configuration in force. If it raises, the old one is in force as before."""
        await self._started.wait()
        await self.prepare(config)
        try:
            self.commit()
        except BaseException:
            await self.discard()
            raise
        await self.settle()

    async def prepare(self, config: Config) -> None:
        """Build all that a new configuration needs: what can fail fails here, and nothing has changed then.

        ``commit`` or ``discard`` must follow. Not to be called during ``start``.
        """
        await self.discard()
        async with asyncio.timeout(_PREPARE_LIMIT), self._changing:
            change = await prepare(
                partial(self._prepare_front, config),
                partial(self.runtime.prepare, config),
                partial(self._tracing.prepare, config),
                partial(asyncio.to_thread, self._recorder.prepare, config.record),
            )
            self._prepared = config, change

    def commit(self) -> None:
        """Put in force what was prepared, between two hooks. If it raises, the old configuration is in force."""
        if self._prepared is None:
            raise RuntimeError("no configuration is prepared")
        config, change = self._prepared
        change.commit()
        self._config = config

    async def settle(self) -> None:
        """After the commit: release what only the old configuration had. Failures are logged."""
        if self._prepared is None:
            return
        (_, change), self._prepared = self._prepared, None
        async with self._changing:
            enforce_limits(self._front)
            self._listener.recheck()
            await change.settle()
            await self._renew_tls()
            gc.freeze()  # the collector skips the new configuration as it did the first

    async def discard(self) -> None:
        """Release what was prepared, if anything: it will not be in force."""
        if self._prepared is not None:
            (_, change), self._prepared = self._prepared, None
            await change.discard()

    def stop(self, *, at_once: bool = False, others_accept: bool = False) -> None:
        """Accept no more; answer what is in flight, unless *at_once*.

        From systemd's sockets it accepts for a moment yet, unless *others_accept*.
        """
        self.runtime.shadows.drain()
        if self._redelivery is not None:
            self._redelivery.pause(True)
        self._listener.stop(at_once=at_once, others_accept=others_accept)

    async def wait_for_end(self) -> None:
        """Wait for the end of what ``stop()`` began, and clean up."""
        if self._serving is not None:
            await self._serving
        await self._wait_for_cut_off()
        await self._endpoint.settle()
        if self._fleet is not None:
            await self._fleet.aclose()
        if self._redelivery is not None:
            await self._redelivery.aclose()
        if self._renewing is not None:
            async with self._changing:  # not during a change, which would be left half done
                self._renewing.cancel()
        await self.discard()
        self._lag_monitor.stop()
        await self.runtime.aclose()
        await self._tracing.aclose()
        await asyncio.to_thread(self._recorder.close)
        if self._history is not None:
            self._history.close()
        self._access.flush()

    async def _wait_for_cut_off(self) -> None:
        """Wait for the answers to hooks that the end of the drain cut off: an event takes a moment to be kept."""
        if self._front.tasks:
            await asyncio.wait(self._front.tasks, timeout=2 * RESERVE)

    def _drain(self, on: bool) -> bool:
        """Have clients go elsewhere and pause redelivery, or undo both. False once the end has begun."""
        changed = self._listener.drain(on)
        if changed and self._redelivery is not None:
            self._redelivery.pause(on)
        return changed

    async def _renew_tls_periodically(self) -> None:
        """Use renewed certificates without a reload: what renews them does not know this process."""
        while True:
            await asyncio.sleep(LOOK_AT_CERTIFICATES_EVERY)
            async with self._changing:
                if self._prepared is None:  # else what is prepared was built from the previous files
                    await self._renew_tls()

    async def _renew_tls(self) -> None:
        with self._keep_renewing:
            self._refresh_tls()
            await self.runtime.renew_tls()

    def _refresh_tls(self) -> None:
        try:
            renewed = Renewal.NOTHING if self._tls is None else self._tls.refresh()
        except Exception as exc:
            logger.error("server.tls: the changed files cannot be used, the old ones stay: %s", exc)
            return
        if renewed is Renewal.CERTIFICATE:
            logger.info("server.tls: the certificate's files have changed and are in use")
        elif renewed is Renewal.AUTHORITIES:
            logger.info("server.tls: client_ca has changed and is in use; connections made with the old one are closed")
            self._listener.close_gracefully()

    def _record_failed_handshake(self, failed: FailedHandshake) -> None:
        """Count and log it; at level debug where the client disconnected, as port scans and health checks do."""
        self._failed_handshakes[failed.fault].inc()
        fields = {"event": "tls_handshake_failed", "peer": failed.peer, "reason": failed.fault, "error": failed.detail}
        level = logging.DEBUG if failed.fault is HandshakeFault.CLOSED else logging.WARNING
        # The reason is part of the format: repeated lines are limited for each format.
        logger.log(level, f"TLS handshake with %s failed ({failed.fault}): %s", failed.peer, failed.detail,
                   extra={"fields": fields})  # fmt: skip

    def _record_bad_header(self, peer: Client, fault: BadProxyHeader) -> None:
        """Count and log it; only at level debug where the peer disconnected at once, as health checks do."""
        name = peer_name(peer)
        fields = {"event": "proxy_header_rejected", "peer": name, "error": str(fault)}
        if isinstance(fault, PeerLeft):
            logger.debug("no PROXY header from %s: %s", name, fault, extra={"fields": fields})
            return
        self._bad_headers.inc()
        logger.warning("PROXY header from %s rejected: %s", name, fault, extra={"fields": fields})

    async def _prepare_front(self, config: Config) -> Change:
        """What clients are granted, and the log."""
        front = self._front
        before, after = (front.limits, front.addresses), (_limits(config), _client_addresses(config))

        def grant(granted: tuple[FrontLimits, ClientAddresses]) -> None:
            front.limits, front.addresses = granted

        grants = Swap(partial(grant, after), partial(grant, before))
        return Changes((grants, self._prepare_log(config), self._prepare_history(config)))

    def _prepare_history(self, config: Config) -> Change:
        return Change() if self._history is None else self._history.prepare(config.history, config.revision)

    def _prepare_log(self, config: Config) -> Change:
        console = config.log.format == "console"
        access = self._access.prepare(access=config.log.access, console=console, mask=config.log.mask)
        return Changes((access, prepare_logging(self._writer, level=config.log.level, console=console)))


def _shadow_listener(journal: Journal, history: HistoryRecorder | None) -> ResultListener:
    """What gets the results of shadow copies."""
    if history is None:
        return journal.record_shadow

    def record(request_id: str, result: ShadowResult, decision: Decision) -> None:
        journal.record_shadow(request_id, result, decision)
        history.record_shadow(request_id, result, decision)

    return record


def _limits(config: Config) -> FrontLimits:
    server = config.server
    granted = fd_limits.grant(config)
    return FrontLimits(
        max_body=server.max_body,
        read_timeout=server.read_timeout,
        keepalive_timeout=server.keepalive_timeout,
        max_connections=granted.connections,
        max_refused=granted.refused,
        max_strangers=granted.strangers,
    )


def _client_addresses(config: Config) -> ClientAddresses:
    server = config.server
    return ClientAddresses(server.allow_from, server.trusted_proxies, server.proxy_protocol)


def _server_tls(config: Config, copies: Copies) -> ServerTLS | None:
    tls = config.server.tls
    return None if tls is None else ServerTLS(tls.files, tls.minimum_version, copies)


def _tune_gc() -> None:
    """Exclude what stays for good from garbage collection, and run it rarely: hooks make no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def _return_large_buffers() -> None:
    """Have glibc return large buffers to the system once they are free; by default it starts to keep them (mallopt(3)).

    Two thousand clients with half a body each would leave hundreds of MB behind.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have neither it nor the problem
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
