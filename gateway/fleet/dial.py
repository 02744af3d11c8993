"""Opens connections to the server: redis-py connects, asks Sentinel, makes TLS, logs in and selects the database.

After that the connection is a ``Wire``: redis-py sends a command and waits for its answer, while hooks must never wait
for each other's. The only module that loads redis-py and hiredis.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from typing import Any, Final

import hiredis
from redis import exceptions as errors
from redis.asyncio import Connection, SSLConnection

from gateway.config.sections.state import StateConfig
from gateway.fleet.reasons import Away, refusal_reason
from gateway.fleet.wire import Refused, Wire

DIAL_LIMIT: Final = 1.0
"""Seconds for a server to connect, log in and select the database."""
SENTINEL_LIMIT: Final = 0.3
"""Seconds for one Sentinel to answer."""


async def dial(config: StateConfig, client_name: str) -> Wire:
    """A connection to the server, or to the master that Sentinel names. Raises Away."""
    target = config.url
    host, port = target.hosts[0] if not target.service else await _ask_sentinels(config)
    connection = _connection(config, host, port, client_name)
    try:
        async with asyncio.timeout(DIAL_LIMIT):
            await connection.connect()  # type: ignore[no-untyped-call]
    except (TimeoutError, errors.RedisError, OSError) as exc:
        connection.drop()
        raise Away(_reason(exc), f"{host}:{port}") from exc
    except BaseException:
        connection.drop()
        raise
    return connection.take_over()


class _TakeOver(Connection):
    """redis-py's connection, whose socket can be taken from it."""

    def take_over(self) -> Wire:
        """The connection as a Wire. This object is not to be used any more."""
        writer, self._writer, self._reader = self._writer, None, None
        assert writer is not None
        reader: Any = hiredis.Reader(protocolError=ValueError, replyError=Refused)
        transport: Any = writer.transport
        wire = Wire(transport, reader, hiredis.pack_command, keep=writer)
        transport.set_protocol(wire)
        return wire

    def drop(self) -> None:
        """Close it without waiting."""
        self._close()  # type: ignore[no-untyped-call]


class _TakeOverTls(_TakeOver, SSLConnection):
    pass


def _connection(config: StateConfig, host: str, port: int, name: str | None, *, log_in: bool = True) -> _TakeOver:
    target, options = config.url, dict[str, Any]()
    if log_in:
        options = {
            "username": target.user,
            "password": None if target.password is None else target.password.get_secret_value(),
            "db": target.database,
        }
    if target.tls:
        if config.tls is not None:
            options |= {
                "ssl_ca_certs": config.tls.ca,
                "ssl_certfile": config.tls.certificate,
                "ssl_keyfile": config.tls.key,
            }
        return _TakeOverTls(
            host=host, port=port, protocol=2, client_name=name, driver_info=None, socket_connect_timeout=DIAL_LIMIT,
            ssl_check_hostname=True, **options,
        )  # fmt: skip
    return _TakeOver(
        host=host, port=port, protocol=2, client_name=name, driver_info=None, socket_connect_timeout=DIAL_LIMIT,
        **options,
    )  # fmt: skip


async def _ask_sentinels(config: StateConfig) -> tuple[str, int]:
    """The address of the master, from the first Sentinel that knows it; each time another one is asked first."""
    hosts = config.url.hosts
    reason = ""
    for host, port in random.sample(hosts, len(hosts)):
        try:
            async with asyncio.timeout(SENTINEL_LIMIT):
                return await _ask_sentinel(config, host, port)
        except Away as exc:
            reason = f"Sentinel {host}:{port}: {exc.reason}"
        except (TimeoutError, errors.RedisError, OSError) as exc:
            reason = f"Sentinel {host}:{port}: {_reason(exc)}"
    raise Away(reason, config.url.service)


async def _ask_sentinel(config: StateConfig, host: str, port: int) -> tuple[str, int]:
    connection = _connection(config, host, port, None, log_in=False)
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
        answer = await _master_address(config, connection)
    finally:
        connection.drop()
    if answer is None:
        raise Away(f"it knows no master of the name {config.url.service}", f"{host}:{port}")
    return answer[0].decode("utf-8", "replace"), int(answer[1])


async def _master_address(config: StateConfig, connection: Connection) -> list[bytes] | None:
    """Many Sentinels have no password though their servers have one: it is sent to those that ask for it."""
    question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", config.url.service)
    try:
        await connection.send_command(*question)
        return await connection.read_response()  # type: ignore[no-any-return]
    except errors.AuthenticationError:
        password = config.url.password
        if password is None:
            raise
        await connection.connect()  # type: ignore[no-untyped-call] # redis-py closes what answers so
        user = () if config.url.user is None else (config.url.user,)
        await connection.send_command("AUTH", *user, password.get_secret_value())
        await connection.read_response()
        await connection.send_command(*question)
        return await connection.read_response()  # type: ignore[no-any-return]


def _reason(exc: BaseException) -> str:
    """Why it could not be reached, in words; never anything of the URL."""
    found: BaseException | None = exc
    while found is not None:
        match found:
            case errors.AuthenticationError():
                return refusal_reason(found.status_code or "WRONGPASS", "")
            case errors.BusyLoadingError():
                return refusal_reason("LOADING", "")
            case ssl.SSLCertVerificationError():
                return f"its certificate is not accepted: {found.verify_message}"
            case ssl.SSLError():
                return f"TLS fails: {(found.reason or 'no reason given').replace('_', ' ').lower()}"
            case ConnectionRefusedError():
                return "it refuses connections"
            case TimeoutError() | errors.TimeoutError():
                return "it does not answer"
            case OSError() if found.strerror:
                return found.strerror.lower()
            case errors.ResponseError():
                return refusal_reason(found.status_code or "", str(found))
        found = found.__cause__ or found.__context__
    return "it closed the connection"
