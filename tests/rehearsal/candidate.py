"""The new backend of the rehearsal: the old one's rules, ported to Python.

``python -m tests.rehearsal.candidate PORT`` serves the rules as they should be; ``--as-ported`` the first version of
them, in which one list is too short and one setting of the connect answer is another. SIGUSR1 makes it answer 500 to
everything, as after a bad deployment; SIGUSR2 makes it well again.
"""

from __future__ import annotations

import argparse
import json
import signal
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.rehearsal.day import CLIENT_CONFIG, CLOSED_BRANCH, CLOSED_BRANCH_AS_PORTED, PORTED_CLIENT_CONFIG, is_refused


class Candidate:
    """Decides hooks."""

    def __init__(self, *, as_ported: bool) -> None:
        self._closed_branch = CLOSED_BRANCH_AS_PORTED if as_ported else CLOSED_BRANCH
        self._client_config = PORTED_CLIENT_CONFIG if as_ported else CLIENT_CONFIG
        self.bad = False

    async def decide(self, request: Request) -> Response:
        """Answer one hook."""
        if self.bad:
            return Response("Internal Server Error", 500)
        hook: dict[str, Any] = json.loads(await request.body())
        method = request.path_params["method"]
        if method == "OnCallEvent" and is_refused(hook["caller"], hook["callee"], self._closed_branch):
            return Response(status_code=403)
        if method == "connect":
            hook["restClientConfig"] = self._client_config
        return JSONResponse({**hook, "answeredBy": "new"})


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--as-ported", action="store_true", help="with the planted mistakes")
    arguments = parser.parse_args()
    candidate = Candidate(as_ported=arguments.as_ported)
    signal.signal(signal.SIGUSR1, lambda *_: setattr(candidate, "bad", True))
    signal.signal(signal.SIGUSR2, lambda *_: setattr(candidate, "bad", False))
    application = Starlette(routes=[Route("/rest/my_api/{method}", candidate.decide, methods=["POST"])])
    # Its own keep-alive outlasts the gateway's, so that a connection is never closed under a hook.
    uvicorn.run(
        application, host="127.0.0.1", port=arguments.port, log_level="warning", access_log=False,
        timeout_keep_alive=120, backlog=512, lifespan="off",
    )  # fmt: skip


if __name__ == "__main__":
    main()
