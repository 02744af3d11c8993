"""``gateway send``: one hook fired as the media server would."""

from __future__ import annotations

import re
import time
from typing import Annotated
from urllib.parse import quote

import httpx
import typer

from gateway.cli.common import BAD_USAGE, HookFile, MethodOption, fail, is_usable, read_hook_file
from gateway.model.text import printable
from gateway.model.verdicts import ALLOW_STATUS, REJECT_STATUS

HOOK_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Content-Type": "application/json;charset=UTF-8",
    "User-Agent": "wcs-gateway send",
}
_MAX_TIMEOUT = 86400
_proxy_error = re.compile(r"error=([a-z_]+)(?:.*received-status=(\d+))?").search


def send(
    file: HookFile,
    method: MethodOption = "OnCallEvent",
    url: Annotated[
        str, typer.Option("--url", "-u", metavar="URL", help="The app's URL, without the method.")
    ] = "http://127.0.0.1:8080/rest/my_api",
    timeout: Annotated[float, typer.Option(help="Seconds; the media server itself waits 15.")] = 15.0,
) -> None:
    """Fire a hook and print verdict, status, reason and time."""
    if not 0 < timeout < _MAX_TIMEOUT:
        fail(f"--timeout must be above 0 and below {_MAX_TIMEOUT} seconds", BAD_USAGE)
    check_url(url)
    shown = shown_url(url)
    body = read_hook_file(file)
    started = time.perf_counter()
    try:
        with httpx.Client(trust_env=False, timeout=timeout) as client:
            # Quoted: it is one segment of the path, whatever stands in it.
            target = f"{url.rstrip('/')}/{quote(method, safe='', errors='replace')}"
            response = client.post(target, content=body, headers=HOOK_HEADERS)
    except httpx.TimeoutException:
        fail(f"{shown}: no answer within {timeout:g} s")
    except httpx.HTTPError as exc:
        fail(f"{shown}: {exc}")
    milliseconds = (time.perf_counter() - started) * 1000
    print(f"verdict   {verdict_of(response)}")
    print(f"status    {response.status_code} {response.reason_phrase}")
    print(f"reason    {reason_of(response)}")
    print(f"time      {milliseconds:.1f} ms")
    print(f"request   {printable(response.headers.get('x-request-id', '(no id)'))}")


def check_url(url: str) -> None:
    """End with exit status 2 if the URL is none that a hook can be sent to."""
    try:
        usable = is_usable(httpx.URL(url))
    except (httpx.InvalidURL, ValueError) as exc:
        fail(f"{printable(url)}: {exc}", BAD_USAGE)
    if not usable:
        fail(f"{printable(url)}: is not a URL such as http://127.0.0.1:8080/rest/my_api", BAD_USAGE)
    if "?" in url or "#" in url:
        fail(
            f"{shown_url(url)}: must end with the path, to which the method is added: no query, no fragment", BAD_USAGE
        )


def shown_url(url: str) -> str:
    """A usable URL as it may be printed: without user name and password."""
    return str(httpx.URL(url).copy_with(userinfo=b""))


def verdict_of(response: httpx.Response) -> str:
    """What the media server makes of the answer."""
    if response.status_code == ALLOW_STATUS:
        return "allow"
    return "reject" if response.status_code == REJECT_STATUS else "error (the media server treats it as a refusal)"


def reason_of(response: httpx.Response) -> str:
    """Why, as far as the answer tells."""
    if "problem+json" in response.headers.get("content-type", ""):
        return _detail(response)
    status = response.headers.get("proxy-status", "")
    found = _proxy_error(status)
    if found is None:
        decided = response.status_code in (ALLOW_STATUS, REJECT_STATUS)
        return "the backend's own decision" if decided else "the answer does not say"
    received = f", the backend answered {found.group(2)}" if found.group(2) else ""
    return f"the gateway decided: {found.group(1)}{received}"


def _detail(response: httpx.Response) -> str:
    """The ``detail`` of problem details (RFC 9457)."""
    try:
        detail = response.json()["detail"]
    except (ValueError, LookupError, TypeError):
        return "the answer's problem details cannot be read"
    return printable(str(detail))
