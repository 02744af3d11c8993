"""Active health checks: does the backend answer? A check says nothing about verdicts.

Its result goes to the target's breaker, so that hooks and checks share one state: unknown counts as healthy, two failed
checks in a row eject the target, one good check restores it.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Final

import httpx

from gateway.config import Health
from gateway.http.client import TransportSettings
from gateway.http.client.transport import Transport
from gateway.model.keep_going import KeepGoing
from gateway.upstreams.admission import EjectionScope
from gateway.upstreams.target import Target

logger = logging.getLogger(__name__)

_FALL: Final = 2
"""Failed checks in a row that eject a target."""


def check_url(target: httpx.URL, config: Health) -> httpx.URL:
    """The URL that a check of this target requests."""
    return target.copy_with(raw_path=config.path.encode("ascii"))


class HealthCheck:
    """Checks one target at intervals, over its own connections, once it is started."""

    def __init__(
        self, target: Target, config: Health, tls: ssl.SSLContext | None = None, server_name: str | None = None
    ) -> None:
        self.config = config
        self.tls_options = (tls, server_name)
        self._settings = TransportSettings(config.timeout, None, 1, 64 * 1024, tls=tls, server_name=server_name)
        self._target = target
        self._failures = 0
        self._ejected = False
        self._loop = asyncio.get_running_loop()
        self._url = check_url(target.url, config)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start checking."""
        self._task = self._loop.create_task(self._run(), name=f"health {self._target.name}")

    async def aclose(self) -> None:
        """Stop checking; an ejection by this check is lifted, since nothing else would."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._target.fails_check = False
        if self._ejected:
            self._target.record_recovery(self._loop.time())

    async def _run(self) -> None:
        config = self.config
        keep_going = KeepGoing(f"the health check of {self._target.name}")
        transport = Transport(self._settings, resolver=self._target.transport.resolver)
        async with httpx.AsyncClient(transport=transport, timeout=config.timeout, trust_env=False) as client:
            while True:
                with keep_going:
                    self._record(await self._ask(client, self._url))
                await asyncio.sleep(config.interval)

    async def _ask(self, client: httpx.AsyncClient, url: httpx.URL) -> str | None:
        """What is wrong; None if all is well."""
        try:
            response = await client.get(url, headers={"User-Agent": "wcs-gateway health check"})
        except httpx.HTTPError as exc:
            return str(exc)
        if response.status_code != self.config.expect:
            return f"status {response.status_code}, not {self.config.expect}"
        return None

    def _record(self, problem: str | None) -> None:
        target, now = self._target, self._loop.time()
        if problem is None:
            if self._failures >= _FALL:
                logger.warning("%s: its health check is good again", target.name)
            self._failures = 0
            target.fails_check = False
            if self._ejected:  # a breaker that hooks' failures opened is closed by a hook only
                self._ejected = False
                target.record_recovery(now)
            return
        self._failures += 1
        target.record_error(f"health check: {problem}")
        if self._failures == _FALL:
            logger.warning("%s: its health check fails: %s", target.name, problem)
        if self._failures >= _FALL:
            self._ejected = target.fails_check = True
            if target.breaker.eject(now):
                target.report_ejection(EjectionScope.ALL, "", f"health check: {problem}")
