"""How the gateways of a fleet prove to each other that they have the same admin token, without sending it.

A gateway learns the addresses of the others from the shared state. Were the token itself sent there, whoever can write
to the state could collect it. A signature is of use for one address and one request that reads, and for some minutes.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

SCHEME: Final = "Fleet"
VALID_FOR: Final = 900.0
"""Seconds by which the clocks of two gateways may differ."""
_is_signature = re.compile(rb"(?i:fleet) +([0-9]{1,12})\.([0-9a-f]{64})").fullmatch


def sign(token: str, host: str, target: str, now: float) -> str:
    """The Authorization header of a GET; *host*: its Host header, *target*: path and query as sent."""
    moment = int(now)
    return f"{SCHEME} {moment}.{_digest(token, moment, host.encode(), target.encode())}"


def is_signed(header: bytes, token: str, host: bytes, target: bytes, now: float) -> bool:
    """Whether the Authorization header of a GET was made with this token, for this host and target, not long ago."""
    found = _is_signature(header.strip())
    if found is None or abs(int(found[1]) - now) > VALID_FOR:
        return False
    return hmac.compare_digest(found[2].decode(), _digest(token, int(found[1]), host, target))


def _digest(token: str, moment: int, host: bytes, target: bytes) -> str:
    text = b"%d\nGET\n%b\n%b" % (moment, host, target)
    return hmac.new(token.encode("utf-8"), text, hashlib.sha256).hexdigest()
