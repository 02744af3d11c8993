"""Which header names of a client are forwarded to a backend: none that PHP could take for another.

PHP (as CGI, RFC 3875, section 4.1.18) sees ``X-Api-Key`` as ``HTTP_X_API_KEY``, and some servers make the same of
``X_Api_Key`` and ``X.Api.Key``. So a client could set what the gateway or its operator sets under another spelling.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from typing import Final

logger = logging.getLogger(__name__)

_RESERVED: Final = (b"x-gateway-", b"x-forwarded-")
"""Prefixes of names that only gateways and proxies may set."""
_HTTPOXY: Final = b"proxy"
"""CGI makes HTTP_PROXY of it, through which programs send their own requests (https://httpoxy.org)."""
_LONGEST: Final = 64
"""Characters of a name that the log shows."""
_MOST: Final = 64
"""Names that are logged."""

_is_plain = re.compile(rb"[a-z0-9-]+").fullmatch
_odd = re.compile(rb"[^a-z0-9]")
_logged: set[bytes] = set()


def php_name(name: bytes) -> bytes:
    """The lower-case name with every character that servers may turn into ``_`` as a hyphen."""
    return _odd.sub(b"-", name)


def may_pass(name: bytes, taken: Collection[bytes], *, keep_odd: bool) -> bool:
    """Whether a client's header of this lower-case name is forwarded; each name that is not is logged once.

    *taken*: the names that the gateway sets or removes itself, as PHP sees them. *keep_odd*: names with other
    characters than letters, digits and hyphens go on, unless PHP could take them for one of *taken*.
    """
    seen = name
    if not _is_plain(name):
        seen = php_name(name)
        if not keep_odd:
            _log_once(name, "it has a character for which PHP may take it for another header")
            return False
    if seen == _HTTPOXY or seen.startswith(_RESERVED) or (seen is not name and seen in taken):
        _log_once(name, "only the gateway may set it")
        return False
    return True


def _log_once(name: bytes, reason: str) -> None:
    shown = name[:_LONGEST]
    if shown in _logged or len(_logged) >= _MOST:
        return
    _logged.add(shown)
    text = shown.decode("ascii", "replace")
    last = "; no further names are logged" if len(_logged) == _MOST else ""
    fields = {"event": "header_dropped", "header": text}
    logger.warning("header %s of a client was dropped: %s%s", text, reason, last, extra={"fields": fields})
