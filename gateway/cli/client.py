"""Asking the admin port of a gateway that runs: where it is, with which token, and what can go wrong."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer

from gateway.cli.common import BAD_USAGE, DEFAULT_CONFIG, fail, is_usable
from gateway.config import Address, ConfigError, load, parse_address
from gateway.config.source.document import MAX_BYTES, parse
from gateway.config.source.files import ReadError, read_text
from gateway.model.text import printable, shorten

TOKEN_VARIABLE: Final = "GATEWAY_ADMIN_TOKEN"  # noqa: S105
"""Environment variable with the admin token, where neither an option nor the configuration tells it."""
_DEFAULT: Final = Address("127.0.0.1", 9180)
_TIME_LIMIT: Final = 5.0
"""Seconds for an answer; a gateway that waits for workers which hang gives one within two."""
_MAX_TOKEN: Final = 64 * 1024
_error_number = re.compile(r"^\[Errno -?[0-9]+\] ")

WatchedConfig = Annotated[
    Path | None,
    typer.Option(
        "-c",
        "--config",
        metavar="FILE",
        help="The gateway's configuration file: its admin address and token.  [default: gateway.yaml, if it is here]",
    ),
]
AdminOption = Annotated[
    str | None,
    typer.Option(
        "--admin",
        metavar="URL",
        help=f"The admin port.  [default: what the configuration file says, else http://{_DEFAULT}]",
    ),
]
TokenOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help=f"A file with the admin token.  [default: ${TOKEN_VARIABLE}, else what the configuration file says]",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


class NoAnswer(Exception):
    """Nobody answers; the message says why, in few words."""


class Refusal(Exception):
    """The gateway answered, but not with what was asked for."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Gateway:
    """The admin port of a running gateway."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._client = httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=_TIME_LIMIT)

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()

    def get(self, path: str, **parameters: str | int | None) -> Any:
        """The JSON that it answers there. Raises NoAnswer and Refusal."""
        asked = {name: value for name, value in parameters.items() if value is not None}
        for value in asked.values():
            if any("\ud800" <= character <= "\udfff" for character in str(value)):
                fail(f"{printable(str(value))}: is not UTF-8", BAD_USAGE)
        try:
            answer = self._client.get(path, params=asked)
        except httpx.TimeoutException as exc:
            raise NoAnswer(f"no answer within {_TIME_LIMIT:g} s") from exc
        except httpx.HTTPError as exc:
            raise NoAnswer(_in_words(exc)) from exc
        if answer.status_code != 200:
            raise Refusal(answer.status_code, _said(answer))
        try:
            return answer.json()
        except ValueError as exc:
            raise Refusal(answer.status_code, "its answer is no JSON: this is hardly a gateway's admin port") from exc

    def get_or_fail(self, path: str, **parameters: str | int | None) -> Any:
        """The same; where it fails, the program ends with a message."""
        try:
            return self.get(path, **parameters)
        except NoAnswer as exc:
            fail(f"no gateway answers at {self.url}: {exc}")
        except Refusal as exc:
            self.fail_for(exc)

    def fail_for(self, refusal: Refusal) -> None:
        """End the program as this answer deserves."""
        if refusal.status == 401:
            fail(f"{self.url} asks for the admin token: give --token-file FILE or ${TOKEN_VARIABLE}")
        fail(f"{self.url}: {refusal}", BAD_USAGE if refusal.status == 400 else 1)


def _in_words(exc: httpx.HTTPError) -> str:
    text = _error_number.sub("", str(exc)) or "the connection ended"
    return printable(text[:1].lower() + text[1:]).rstrip(".")


def _said(answer: httpx.Response) -> str:
    if "html" in answer.headers.get("content-type", ""):
        return f"it answers {answer.status_code} with HTML: this is hardly a gateway's admin port"
    return printable(shorten(answer.text.strip())) or f"it answers {answer.status_code}"


def gateway_at(admin: str | None, token_file: Path | None, config: Path | None) -> Gateway:
    """The gateway that the options mean. Ends the program with exit status 2 where they mean none."""
    token = _token_of(token_file)
    if admin is not None:
        # The file's token is for the gateway of the file, not for whatever answers elsewhere.
        return Gateway(_checked(admin), token)
    address, configured = _configured(config)
    return Gateway(f"http://{address}", token or configured)


def _checked(admin: str) -> str:
    text = admin if "://" in admin else f"http://{admin}"
    try:
        usable = is_usable(httpx.URL(text))
    except (httpx.InvalidURL, ValueError) as exc:
        fail(f"--admin {printable(admin)}: {exc}", BAD_USAGE)
    if not usable:
        fail(f"--admin {printable(admin)}: is not a URL such as http://{_DEFAULT}", BAD_USAGE)
    return text.rstrip("/")


def _token_of(file: Path | None) -> str | None:
    if file is None:
        token = os.environ.get(TOKEN_VARIABLE) or None
        name = f"${TOKEN_VARIABLE}"
    else:
        try:
            token = read_text(file, _MAX_TOKEN, "64 KiB").strip()
        except ReadError as exc:
            fail(f"--token-file {printable(str(file))}: {exc}", BAD_USAGE)
        name = f"--token-file {printable(str(file))}"
        if not token:
            fail(f"{name}: is empty", BAD_USAGE)
    if token is not None and not (token.isascii() and token.isprintable()):
        fail(f"{name}: is no token, which has printable ASCII characters only", BAD_USAGE)
    return token


def _configured(config: Path | None) -> tuple[Address, str | None]:
    """Admin address and token of the configuration file."""
    if config is None and not DEFAULT_CONFIG.exists():
        return _DEFAULT, None
    path = config or DEFAULT_CONFIG
    try:
        loaded = load(path).config
    except ConfigError:
        # A gateway may well run by what the file said before, and its secrets' variables need not be set here.
        return _reachable(_address_in(path), path), None
    token = loaded.admin.token
    return _reachable(loaded.server.admin, path), None if token is None else token.reveal()


def _address_in(path: Path) -> Address:
    """What the file says of the admin address, whatever is wrong with the rest."""
    name = printable(str(path))
    try:
        return _address_of(parse(read_text(path, MAX_BYTES, "16 MiB"), name).plain())
    except ReadError as exc:
        fail(f"{name}: cannot be read: {exc}", BAD_USAGE)
    except (ConfigError, ValueError):
        fail(f"{name} does not tell the admin address (see gateway check); give --admin URL", BAD_USAGE)


def _address_of(data: object) -> Address:
    server = data.get("server") if isinstance(data, Mapping) else data
    if server is None:
        return _DEFAULT
    admin = server.get("admin", str(_DEFAULT)) if isinstance(server, Mapping) else server
    if not isinstance(admin, str):
        raise ValueError("this is no address")
    return parse_address(admin)


def _reachable(address: Address, path: Path) -> Address:
    if address.port == 0:
        fail(f"{printable(str(path))}: server.admin is any free port; give --admin URL", BAD_USAGE)
    if "%" in address.host:  # which no URL can name
        fail(f"{printable(str(path))}: server.admin is of one interface; give --admin URL", BAD_USAGE)
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104
    return Address(host, address.port)
