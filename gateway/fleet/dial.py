"""Opens connections to the server: redis-py connects, makes TLS, logs in, selects the database, and asks Sentinels.

After that the connection is a ``Wire``: redis-py sends a command and waits for its answer, while hooks must never wait
for each other's. The only module that loads redis-py and hiredis. Names are looked up by the gateway's own resolver: in
asyncio's few threads, a slow name server would hold up scrapes and reloads.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Mapping
from typing import Any, Final

import hiredis
from redis import exceptions as errors
from redis.asyncio import Connection, SSLConnection

from gateway.config.sections.state import StateConfig
from gateway.fleet.reasons import Away, refusal_reason
from gateway.fleet.wire import Refused, Wire
from gateway.http.client.resolver import Resolver

DIAL_LIMIT: Final = 1.0
"""Seconds for one address of a server to connect, log in and select the database."""
SENTINEL_LIMIT: Final = 0.3
"""Seconds for one address of a Sentinel to answer."""
_MOST_ADDRESSES: Final = 4
"""Of one name, that are tried."""
_ERRORS: Final = (TimeoutError, errors.RedisError, OSError)


class Dialer:
    """Opens the connections of one Link. Build it in the running loop."""

    def __init__(self, config: StateConfig, client_name: str) -> None:
        self._config = config
        self._client_name = client_name
        self._resolver = Resolver()

    async def dial(self) -> Wire:
        """A connection to the server, or to the master that Sentinel names. Raises Away."""
        target = self._config.url
        if not target.service:
            return await self._open(*target.hosts[0])
        host, port = await self._ask_sentinels()
        try:
            return await self._open(host, port)
        except Away as exc:
            raise Away(f"the master {host}:{port}: {exc.reason}") from exc

    async def aclose(self) -> None:
        """End look-ups of names that are under way."""
        await self._resolver.aclose()

    async def _open(self, host: str, port: int) -> Wire:
        """A connection to the first of a host's addresses that takes one. Raises Away."""
        away = Away("its name has no address")
        for address in await self._addresses(host):
            connection = self._connection(host, address, port)
            try:
                async with asyncio.timeout(DIAL_LIMIT):
                    await connection.connect()  # type: ignore[no-untyped-call]
                return connection.take_over()
            except _ERRORS as exc:
                away = Away(_reason(exc))
            finally:
                connection.drop()
        self._resolver.recheck(host)
        raise away

    async def _addresses(self, host: str) -> tuple[str, ...]:
        try:
            async with asyncio.timeout(DIAL_LIMIT):
                return (await self._resolver.resolve(host))[:_MOST_ADDRESSES]
        except TimeoutError as exc:
            raise Away("the name server does not answer") from exc
        except OSError as exc:
            raise Away(f"its name cannot be resolved: {(exc.strerror or str(exc)).lower()}") from exc

    def _connection(self, host: str, address: str, port: int, *, log_in: bool = True) -> _TakeOver:
        target, tls = self._config.url, self._config.tls
        options: dict[str, Any] = {"host": address, "port": port, "protocol": 2, "driver_info": None}
        if log_in:
            options |= {
                "client_name": self._client_name,
                "username": target.user,
                "password": None if target.password is None else target.password.get_secret_value(),
                "db": target.database,
            }
        if not target.tls:
            return _TakeOver(**options)
        if tls is not None:
            options |= {"ssl_ca_certs": tls.ca, "ssl_certfile": tls.certificate, "ssl_keyfile": tls.key}
        return _TakeOverTls(server_name=host, ssl_check_hostname=True, **options)

    # --- Sentinel ---

    async def _ask_sentinels(self) -> tuple[str, int]:
        """The master's host and port, from the first Sentinel that knows it; each time another one is asked first."""
        hosts = self._config.url.hosts
        reason = ""
        for host, port in random.sample(hosts, len(hosts)):
            try:
                for address in await self._addresses(host):
                    async with asyncio.timeout(SENTINEL_LIMIT):
                        return await self._ask_sentinel(host, address, port)
            except Away as exc:
                reason = f"Sentinel {host}:{port}: {exc.reason}"
            except _ERRORS as exc:
                reason = f"Sentinel {host}:{port}: {_reason(exc)}"
        raise Away(reason)

    async def _ask_sentinel(self, host: str, address: str, port: int) -> tuple[str, int]:
        connection = self._connection(host, address, port, log_in=False)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            answer = await self._master_address(connection)
        finally:
            connection.drop()
        if answer is None:
            raise Away(f"it knows no master of the name {self._config.url.service}")
        return answer[0].decode("utf-8", "replace"), int(answer[1])

    async def _master_address(self, connection: Connection) -> list[bytes] | None:
        """Many Sentinels have no password though their servers have one: it is sent to those that ask for it."""
        target = self._config.url
        question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", target.service)
        try:
            await connection.send_command(*question)
            return await connection.read_response()  # type: ignore[no-any-return]
        except errors.AuthenticationError:
            if target.password is None:
                raise
        await connection.connect()  # type: ignore[no-untyped-call] # redis-py closes what answers so
        user = () if target.user is None else (target.user,)
        await connection.send_command("AUTH", *user, target.password.get_secret_value())
        await connection.read_response()
        await connection.send_command(*question)
        return await connection.read_response()  # type: ignore[no-any-return]


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
        """Close what has not been taken over, without waiting."""
        self._close()  # type: ignore[no-untyped-call]


class _TakeOverTls(_TakeOver, SSLConnection):
    """The same with TLS, to an address: the certificate must be of the name."""

    def __init__(self, *, server_name: str, **options: Any) -> None:
        super().__init__(**options)
        self._server_name = server_name

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "server_hostname": self._server_name}


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
