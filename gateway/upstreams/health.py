"""Active health checks: is the backend there? A check never says anything about verdicts.

Its result goes to the target's breaker, so that hooks and checks share one picture: what is unknown counts as
healthy, two failed checks in a row eject the target, one good check brings it back.
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
    """What is asked for at a target."""
    return target.copy_with(raw_path=config.path.encode("ascii"))


class HealthCheck:
    """Asks one target at intervals, over connections of its own, once it is started."""

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
        """Begin to ask."""
        self._task = self._loop.create_task(self._run(), name=f"health {self._target.name}")

    async def aclose(self) -> None:
        """End it; what it alone held against the target is forgotten, since nobody would take it back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
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
        """What is wrong; None where all is well."""
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
            if self._ejected:  # what the hooks' own failures opened, only a hook closes
                self._ejected = False
                target.record_recovery(now)
            return
        self._failures += 1
        target.record_error(f"health check: {problem}")
        if self._failures == _FALL:
            logger.warning("%s: its health check fails: %s", target.name, problem)
        if self._failures >= _FALL:
            self._ejected = True
            if target.breaker.eject(now):
                target.report_ejection(EjectionScope.ALL, "", f"health check: {problem}")
