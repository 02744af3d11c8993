"""A client of a running gateway's admin port: its address, its token, its errors."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import httpx
import typer

from gateway.cli.common import BAD_USAGE, DEFAULT_CONFIG, fail, is_usable
from gateway.config import Address, AdminAddress, ConfigError, SystemdAddress, load, parse_admin_address
from gateway.config.source.document import MAX_BYTES, parse
from gateway.config.source.files import ReadError, read_text
from gateway.model.text import printable, shorten

TOKEN_VARIABLE: Final = "GATEWAY_ADMIN_TOKEN"  # noqa: S105
"""The environment variable with the admin token; an option comes first, the configuration last."""
_DEFAULT: Final = Address("127.0.0.1", 9180)
_TIME_LIMIT: Final = 5.0
"""Seconds for an answer; a gateway with workers that hang answers within two."""
_ACTION_LIMIT: Final = 20.0
"""Seconds for an action, or a search of the history: the store may be busy."""
_MAX_TOKEN: Final = 64 * 1024
_error_number = re.compile(r"^\[Errno -?[0-9]+\] ")

WatchedConfig = Annotated[
    Path | None,
    typer.Option(
        "-c",
        "--config",
        metavar="FILE",
        help="The gateway's configuration file, for admin address and token.  [default: gateway.yaml, if it exists]",
    ),
]
AdminOption = Annotated[
    str | None,
    typer.Option(
        "--admin",
        metavar="URL",
        help=f"URL of the admin port.  [default: from the configuration file, else http://{_DEFAULT}]",
    ),
]
TokenOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help=f"A file with the admin token.  [default: ${TOKEN_VARIABLE}, else from the configuration file]",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
FleetOption = Annotated[bool, typer.Option("--fleet", help="Of all gateways of the fleet, not only the one asked.")]


Parameter = str | int | Sequence[int] | None
"""A value of a query; None is left out, a sequence is repeated."""


class NoAnswer(Exception):
    """The gateway does not answer; the message says why."""


class AdminError(Exception):
    """The gateway answered with an error; the message is its text, ``status`` the HTTP status."""

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

    def get(self, path: str, **parameters: Parameter) -> Any:
        """The JSON of a path. Raises NoAnswer and AdminError."""
        return self._ask("GET", path, _TIME_LIMIT, parameters)

    def search(self, path: str, **parameters: Parameter) -> Any:
        """The same for what may take the store some time."""
        return self._ask("GET", path, _ACTION_LIMIT, parameters)

    def post(self, path: str, **parameters: Parameter) -> Any:
        """The JSON that answers an action. Raises NoAnswer and AdminError."""
        return self._ask("POST", path, _ACTION_LIMIT, parameters)

    @contextlib.contextmanager
    def stream(self, path: str, **parameters: Parameter) -> Iterator[Iterator[bytes]]:
        """The bytes of a path, as they come. Raises NoAnswer, also where they end too early, and AdminError."""
        try:
            with self._client.stream("GET", path, params=_query(parameters), timeout=_ACTION_LIMIT) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise AdminError(answer.status_code, _answer_text(answer))
                yield answer.iter_bytes()
        except httpx.TimeoutException as exc:
            raise NoAnswer(f"no answer within {_ACTION_LIMIT:g} s") from exc
        except httpx.HTTPError as exc:
            raise NoAnswer(_error_text(exc)) from exc

    def _ask(self, method: str, path: str, limit: float, parameters: Mapping[str, Parameter]) -> Any:
        try:
            answer = self._client.request(method, path, params=_query(parameters), timeout=limit)
        except httpx.TimeoutException as exc:
            raise NoAnswer(f"no answer within {limit:g} s") from exc
        except httpx.HTTPError as exc:
            raise NoAnswer(_error_text(exc)) from exc
        if answer.status_code != 200:
            raise AdminError(answer.status_code, _answer_text(answer))
        try:
            return answer.json()
        except ValueError as exc:
            raise AdminError(answer.status_code, "the answer is not JSON: probably not a gateway's admin port") from exc

    @contextlib.contextmanager
    def or_fail(self) -> Iterator[None]:
        """An error in the block ends the program with a message."""
        try:
            yield
        except NoAnswer as exc:
            fail(f"no gateway answers at {self.url}: {exc}")
        except AdminError as exc:
            self.fail_for(exc)

    def get_or_fail(self, path: str, **parameters: Parameter) -> Any:
        """The JSON of a path; an error ends the program with a message."""
        with self.or_fail():
            return self.get(path, **parameters)

    def fail_for(self, error: AdminError) -> NoReturn:
        """End the program with the error: exit status 2 if the request was wrong, else 1."""
        if error.status == 401:
            fail(f"{self.url} requires the admin token: use --token-file FILE or ${TOKEN_VARIABLE}")
        fail(f"{self.url}: {error}", BAD_USAGE if error.status == 400 else 1)


def fleet_parameter(fleet: bool) -> dict[str, Parameter]:
    """The parameter of a question to all gateways."""
    return {"fleet": "true"} if fleet else {}


def _query(parameters: Mapping[str, Parameter]) -> dict[str, str | int | Sequence[int]]:
    query = {name: value for name, value in parameters.items() if value is not None}
    for value in query.values():
        if any("\ud800" <= character <= "\udfff" for character in str(value)):
            fail(f"{printable(str(value))}: is not UTF-8", BAD_USAGE)
    return query


def _error_text(exc: httpx.HTTPError) -> str:
    text = _error_number.sub("", str(exc)) or "the connection was closed"
    return printable(text[:1].lower() + text[1:]).rstrip(".")


def _answer_text(answer: httpx.Response) -> str:
    if "html" in answer.headers.get("content-type", ""):
        return f"it answers {answer.status_code} with HTML: probably not a gateway's admin port"
    return printable(shorten(answer.text.strip())) or f"it answers {answer.status_code}"


def gateway_at(admin: str | None, token_file: Path | None, config: Path | None) -> Gateway:
    """The gateway that the options select. Wrong options end the program with exit status 2."""
    token = _token(token_file)
    if admin is not None:
        # The file's token is only for the gateway of the file, never for another address.
        return Gateway(_checked_url(admin), token)
    address, configured = _configured(config)
    return Gateway(f"http://{address}", token or configured)


def _checked_url(admin: str) -> str:
    text = admin if "://" in admin else f"http://{admin}"
    try:
        usable = is_usable(httpx.URL(text))
    except (httpx.InvalidURL, ValueError) as exc:
        fail(f"--admin {printable(admin)}: {exc}", BAD_USAGE)
    if not usable:
        fail(f"--admin {printable(admin)}: is not a URL such as http://{_DEFAULT}", BAD_USAGE)
    return text.rstrip("/")


def _token(file: Path | None) -> str | None:
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
        fail(f"{name}: not a valid token: only printable ASCII characters are allowed", BAD_USAGE)
    return token


def _configured(config: Path | None) -> tuple[Address, str | None]:
    """Admin address and token of the configuration file."""
    if config is None and not DEFAULT_CONFIG.exists():
        return _DEFAULT, None
    path = config or DEFAULT_CONFIG
    try:
        loaded = load(path).config
    except ConfigError:
        # The gateway may run with an earlier version of the file, and the variables of its secrets may not be set here.
        return _reachable(_address_in(path), path), None
    token = loaded.admin.token
    return _reachable(loaded.server.admin, path), None if token is None else token.get_secret_value()


def _address_in(path: Path) -> AdminAddress:
    """The file's admin address, even if the rest has errors."""
    name = printable(str(path))
    try:
        return _address(parse(read_text(path, MAX_BYTES, "16 MiB"), name).plain())
    except ReadError as exc:
        fail(f"{name}: cannot be read: {exc}", BAD_USAGE)
    except (ConfigError, ValueError):
        fail(f"{name} does not give the admin address (see gateway check); use --admin URL", BAD_USAGE)


def _address(data: object) -> AdminAddress:
    server = data.get("server") if isinstance(data, Mapping) else data
    if server is None:
        return _DEFAULT
    admin = server.get("admin", str(_DEFAULT)) if isinstance(server, Mapping) else server
    if not isinstance(admin, str):
        raise ValueError("not an address")
    return parse_admin_address(admin)


def _reachable(address: AdminAddress, path: Path) -> Address:
    if isinstance(address, SystemdAddress):
        return _DEFAULT  # only the socket unit has its address; the one in deploy/systemd has this
    if address.port == 0:
        fail(f"{printable(str(path))}: server.admin is any free port; use --admin URL", BAD_USAGE)
    if "%" in address.host:  # a URL cannot contain it
        fail(f"{printable(str(path))}: server.admin is an address of one interface; use --admin URL", BAD_USAGE)
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104
    return Address(host, address.port)
