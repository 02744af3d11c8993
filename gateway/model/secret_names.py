"""Which names of fields say that their value is a secret: the one list of them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_PARTS: Final = (
    "password", "passwd", "passphrase", "passcode", "pwd", "secret", "token", "authorization", "credential", "cookie",
    "apikey", "privatekey", "accesskey", "signature",
)  # fmt: skip
"""In any part of a name, in any case and with anything between the letters."""
_WORDS: Final = frozenset(("auth", "pass", "pin", "otp", "jwt", "hmac", "hash", "hashes", "nonce", "cnonce"))
_HA1: Final = re.compile(r"HA1|(?<![A-Za-z])[Hh]a1").search
"""SIP's hash of user, realm and password (RFC 2617, section 3.2.2)."""
_words = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+").findall


@lru_cache(1024)
def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret: a password, a token, a hash of one."""
    plain = re.sub(r"[^a-z]", "", name.lower())
    if plain.endswith("hash") or any(part in plain for part in _PARTS) or _HA1(name):
        return True
    return any(word.lower() in _WORDS for word in _words(name))
