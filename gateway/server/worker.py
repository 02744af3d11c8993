"""A worker process: decides hooks on the sockets that all workers share, directed by its supervisor.

It counts into memory that the supervisor has mapped too, gets its configuration over the channel and never from the
disk, and ends when the channel does: without a supervisor, nobody could change its configuration.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import pickle
import socket
import sys
from typing import NamedTuple

import uvloop

from gateway import __version__
from gateway.admin.rpc import encode_reply
from gateway.config import Config
from gateway.model.change import EXPECTED_ERRORS, failure_reason
from gateway.model.keep_going import KeepGoing
from gateway.policy.shared import Memory, SharedState
from gateway.proxy.sessions import Sessions
from gateway.server.channel import Channel, Ping, Pong, Ready, Stop
from gateway.server.executor import start_threads
from gateway.server.hook_service import HookService
from gateway.server.ipc import Ask, Build, Built, Commit, Committed, Discard, Prepare, Prepared, Serve, TargetEjected
from gateway.server.signals import PROCESS, WORKER_MEANINGS, Receiver
from gateway.server.store_handle import StoreAccess
from gateway.server.systemd_sockets import SystemdSocket
from gateway.telemetry.log import PIPE_ATOMIC, LogWriter
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.metrics.cells import MetricCells

logger = logging.getLogger(__name__)

_SAMPLE_EVERY = 1.0
"""Seconds between two samples of the gauges that only a scrape needs."""
_LAST_LINES = 0.5
"""Seconds that the log has for its last lines where a signal ends the process."""


async def serve(arguments: argparse.Namespace, writer: LogWriter) -> None:
    """Run until the supervisor sends Stop, or is gone."""
    await start_threads()
    channel = await Channel.over(socket.socket(fileno=arguments.channel))
    first = await channel.receive()
    if not isinstance(first, Build):
        return
    metrics = Metrics(__version__, MetricCells(arguments.values, arguments.names))
    store = None if arguments.store is None else StoreAccess(arguments.store, arguments.backlog).client("worker")
    sockets = [socket.socket(fileno=fd) for fd in arguments.listen]
    sockets += [SystemdSocket(fileno=fd) for fd in arguments.systemd]
    try:
        service = HookService(
            first.config,
            sockets,
            metrics,
            writer,
            sessions=Sessions(arguments.sessions),
            copies=first.copies,
            shared=SharedState(Memory(arguments.shared, first.config.server.workers, arguments.slot)),
            store=store,
        )
    except OSError as exc:  # certificates that were broken on the disk before the supervisor had copies of them
        logger.error("this worker cannot serve until its files are fixed: %s", exc)
        return
    with PROCESS.forward_to(Receiver(drain=service.stop), asyncio.get_running_loop()):
        async with contextlib.nullcontext() if store is None else store:
            await _run(service, channel, first, metrics)
    channel.close()


async def _run(service: HookService, channel: Channel, first: Build, metrics: Metrics) -> None:
    if first.config.state is not None:
        service.runtime.targets.on_ejection = lambda upstream, url: channel.send(TargetEjected(upstream, url))
    for action in first.actions:
        await service.rpc_handler.answer(action)
    gate = _Gate(asyncio.Event(), asyncio.Event())
    listening = asyncio.create_task(_listen(channel, service, gate))
    channel.send(Built())
    await gate.opened.wait()
    await service.start()
    gate.passed.set()
    channel.send(Ready())
    sampling = asyncio.create_task(_sample(metrics))
    await service.wait_for_end()
    for task in (sampling, listening):
        task.cancel()
    await asyncio.gather(sampling, listening, return_exceptions=True)


class _Gate(NamedTuple):
    """Between building and serving: a worker that starts just after a reload starts with the new configuration."""

    opened: asyncio.Event
    """Set when the reloads received so far are done, or at the end."""
    passed: asyncio.Event
    """Set when it serves, and reloads go on."""


async def _listen(channel: Channel, service: HookService, gate: _Gate) -> None:
    """Handle the supervisor's messages until it is gone."""
    answering: set[asyncio.Task[None]] = set()
    reloads: asyncio.Queue[_Reload] = asyncio.Queue()
    reloading = asyncio.create_task(_reload(channel, service, reloads, gate))
    keep_going = KeepGoing("listening to the supervisor")
    there_is_more = True
    try:
        while there_is_more:
            with keep_going:
                message = await channel.receive()
                match message:
                    case None:
                        there_is_more = False
                    case Serve() | Prepare() | Commit() | Discard():
                        reloads.put_nowait(message)
                    case Ask():
                        task = asyncio.create_task(_answer(channel, service, message))
                        answering.add(task)
                        task.add_done_callback(answering.discard)
                    case Ping():
                        channel.send(Pong())
                    case Stop():
                        service.stop(at_once=message.at_once, others_accept=message.others_accept)
                        gate.opened.set()
    finally:
        reloading.cancel()
    service.stop()
    gate.opened.set()


_Reload = Serve | Prepare | Commit | Discard


async def _reload(channel: Channel, service: HookService, messages: asyncio.Queue[_Reload], gate: _Gate) -> None:
    """Handle the messages of reloads in order, beside all others: some take a while."""
    keep_going = KeepGoing("a reload's step")
    error: str | None = None
    while True:
        message = await messages.get()
        with keep_going:
            match message:
                case Serve():
                    gate.opened.set()
                    await gate.passed.wait()
                case Prepare():
                    error = await _prepare(service, message)
                    channel.send(Prepared(message.serial, error))
                case Commit():
                    error = error or _commit(service)
                    await (service.settle() if error is None else service.discard())
                    channel.send(Committed(message.serial, error))
                case Discard():
                    await service.discard()


async def _prepare(service: HookService, message: Prepare) -> str | None:
    """Prepare a configuration; None, or the reason why it cannot be prepared."""
    try:
        config: Config = await asyncio.to_thread(pickle.loads, message.config)
        await service.prepare(config)
    except Exception as exc:
        return _report(exc)
    return None


def _commit(service: HookService) -> str | None:
    """Commit what is prepared; None, or the reason why it cannot be put in force."""
    try:
        service.commit()
    except Exception as exc:
        return _report(exc)
    return None


def _report(exc: Exception) -> str:
    """Log a defect; the reason, for the supervisor."""
    if not isinstance(exc, EXPECTED_ERRORS):
        logger.error("a configuration could not be put in force", exc_info=exc)
    return failure_reason(exc)


async def _answer(channel: Channel, service: HookService, message: Ask) -> None:
    reply: bytes | None = None
    try:
        reply = encode_reply(await service.rpc_handler.answer(message.request))
    except Exception:
        logger.exception("a request could not be answered")
    with contextlib.suppress(OSError):  # the supervisor is gone, and so will be this process
        await channel.send_reply(message.number, reply)


async def _sample(metrics: Metrics) -> None:
    keep_going = KeepGoing("the sampling of the gauges")
    while True:
        with keep_going:
            metrics.sample()
        await asyncio.sleep(_SAMPLE_EVERY)


def main() -> None:
    """Entry point of the child process; its arguments are descriptors that the supervisor has left open."""
    PROCESS.install(WORKER_MEANINGS)  # the parent has blocked them until here
    parser = argparse.ArgumentParser(prog="gateway worker")
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--values", type=int, required=True)
    parser.add_argument("--names", type=int, required=True)
    parser.add_argument("--sessions", type=int, required=True)
    parser.add_argument("--shared", type=int, required=True)
    parser.add_argument("--store")
    parser.add_argument("--backlog", type=int)
    parser.add_argument("--slot", type=int, required=True)
    parser.add_argument("--listen", type=int, nargs="*", required=True)
    parser.add_argument("--systemd", type=int, nargs="*", default=())
    arguments = parser.parse_args()
    writer = LogWriter(sys.stdout.fileno(), chunk=PIPE_ATOMIC)
    PROCESS.defer_signals(lambda: writer.close(_LAST_LINES))
    with PROCESS.exit_at_end():
        try:
            uvloop.run(serve(arguments, writer))
        finally:
            writer.close()


if __name__ == "__main__":
    main()
