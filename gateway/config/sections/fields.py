"""The rules of single values: what an upstream's URL, a header, a name, a fallback and a path may be."""

from __future__ import annotations

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

import httpx
from pydantic import AfterValidator, BaseModel, ConfigDict, SecretStr

from gateway.config.sections.addresses import parse_authority
from gateway.config.sections.types import Secret, checked_text, duration, invalid, secret_check, text, whole_number


class Section(BaseModel):
    """A mapping of the file whose keys are known."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


_NO_CONTROLS: Final = r"^[^\x00-\x1f\x7f-\x9f]+$"
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]").search
_HEADER_NAME: Final = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"
_OWN_HEADERS: Final = frozenset(
    {
        # hop by hop (RFC 9110, section 7.6.1) and message framing
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        *("proxy-authenticate", "proxy-authorization", "expect", "content-length"),
        # what the gateway itself sets on every request
        *("host", "via", "x-forwarded-for", "x-forwarded-proto", "x-request-id", "x-request-timeout-ms"),
        *("traceparent", "idempotency-key"),
    }
)
_HOST_AND_PORT: Final = "must be a URL with a valid host and a port from 1 to 65535"
_is_url_text = re.compile(r"[!-~]+").fullmatch
_MAX_URL: Final = 2048
"""Characters; a method and the query of a hook come behind it, and httpx takes 65,536 of all together."""


def parse_target_url(text: str) -> str:
    """An upstream's URL without a trailing slash. The messages never hold it: it may carry a password."""
    if not _is_url_text(text) or "\\" in text:
        raise ValueError("must be a URL in plain ASCII, without spaces, such as http://192.168.1.101/rest/my_api")
    if len(text) > _MAX_URL:
        raise ValueError(f"must be a URL of at most {_MAX_URL} characters")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as exc:
        raise ValueError(_HOST_AND_PORT) from exc
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise ValueError("must be a URL that begins with http:// or https:// and names a host")
    if "@" in parts.netloc:
        raise ValueError("must not contain a user name or password: write them under credentials")
    if "?" in text or "#" in text:
        raise ValueError("must end with its path: a query (?) or fragment (#) is not allowed")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError(_HOST_AND_PORT)
    url = f"{parts.scheme}{text[len(parts.scheme) :]}".rstrip("/")  # in lower case, as those that compare it expect
    try:
        parse_authority(parts.netloc)
        httpx.URL(url)  # what every request is made of
    except (httpx.InvalidURL, ValueError) as exc:
        raise ValueError("must be a URL whose host is an IP address such as 192.168.1.101, or a host name") from exc
    return url


def _host_header(text: str) -> str:
    if text not in {"target", "preserve"}:
        try:
            parse_authority(text)
        except ValueError as exc:
            raise ValueError("must be target, preserve, or a host name such as legacy.example.com") from exc
    return text


def _header_name(text: str) -> str:
    if not re.fullmatch(_HEADER_NAME, text) or len(text) > 256:
        raise ValueError("must be a header name: letters, digits and hyphens")
    if re.sub(r"[^a-z0-9]", "-", text.lower()) in _OWN_HEADERS:  # PHP could not tell them apart
        raise ValueError("must not be set here: the gateway sets or removes this header itself")
    return text


def _header_value(text: str) -> None:
    if not all(" " <= char <= "~" or char == "\t" for char in text):
        raise ValueError("must be one line of printable ASCII characters")
    if text != text.strip() or len(text) > 8192:
        raise ValueError("must not begin or end with white space, and be at most 8192 characters long")


def _not_empty(text: str) -> None:
    if not text:
        raise ValueError("must not be empty")


def _token(text: str) -> None:
    _not_empty(text)
    if not text.isascii() or not text.isprintable() or text != text.strip():
        raise ValueError("must be printable ASCII characters, the first and the last no spaces: a header carries it")


def _no_controls(text: str) -> None:
    if _CONTROLS(text):
        raise ValueError("must not contain control characters such as a line break")


def _signing_key(text: str) -> None:
    _not_empty(text)
    _no_controls(text)


def _username(text: str) -> str:
    _not_empty(text)
    _no_controls(text)
    if ":" in text:  # RFC 7617, section 2
        raise ValueError("must not contain a colon: HTTP Basic ends the user name there")
    return text


def _check_distinct(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    if len({name.lower() for name in headers}) < len(headers):
        raise invalid("must name each header once: upper and lower case do not differ")
    return headers


AppName = Annotated[str, text(_NO_CONTROLS, "must be an appKey: 1 to 256 characters, no control characters", 256)]
UpstreamName = Annotated[
    str, text(_NO_CONTROLS, "must be an upstream's name: 1 to 256 characters, no control characters", 256)
]
MethodName = Annotated[
    str,
    text(
        r"^[A-Za-z][A-Za-z0-9_]{0,63}$",
        "must be a method's name: a letter, then at most 63 letters, digits or _", 64,
    ),
]  # fmt: skip
MethodKey = Annotated[
    str,
    text(
        r"^[A-Za-z*?][A-Za-z0-9_*?]{0,63}$",
        "must be a method's name, such a name with * and ? for what varies, or connect, direct, event or incoming", 64,
    ),
]  # fmt: skip
HostHeader = Annotated[str, checked_text(_host_header, r"target|preserve|[A-Za-z0-9._~:\[\]-]+", "target")]
HeaderName = Annotated[str, checked_text(_header_name, _HEADER_NAME[1:-1], "X-Api-Key")]
HeaderValue = Annotated[Secret, secret_check(_header_value)]
Headers = Annotated[dict[HeaderName, HeaderValue], AfterValidator(_check_distinct)]
Username = Annotated[str, checked_text(_username, r"[^:]+", "wcs")]
Password = Annotated[Secret, secret_check(_no_controls)]
Token = Annotated[Secret, secret_check(_token)]
SigningKey = Annotated[Secret, secret_check(_signing_key)]
HealthPath = Annotated[
    str,
    text(
        r'^/([!-"$-.0-~][!-"$-~]*)?$', "must be a path such as /health: one / first, plain ASCII, no spaces, no #", 1024
    ),
]

# These annotate X as well as X | None, where None then means *left out*.
URL_PATTERN: Final = r"https?://[^\s?#@\\]+"
TARGET_URL: Final = checked_text(parse_target_url, URL_PATTERN, "http://192.168.1.101/rest/my_api")
BUDGET: Final = duration("1ms", "10m")
REPEATS: Final = duration("1ms", "10m", off=True)
IN_FLIGHT: Final = whole_number(1, 1_000_000, "hooks")
is_upstream_reference = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,256}").fullmatch
UPSTREAM_REFERENCE_FORM: Final = "must be the name of an upstream"
UPSTREAM_REFERENCE_SCHEMA: Final = {"type": "string", "pattern": _NO_CONTROLS, "maxLength": 256}
UPSTREAM_REFERENCE: Final = text(_NO_CONTROLS, UPSTREAM_REFERENCE_FORM, 256)
UNKNOWN_APP: Final = text(_NO_CONTROLS, "must be reject or the name of an app", 256)
