"""Telephone numbers as people and systems write them, brought to one form, and the keyed hash that finds them.

A hash is all that is stored of a whole number. Without the key (``history.key``) nobody can find out a number by
hashing all that there are; it is made of the whole number, so that parts of one find nothing.
"""

from __future__ import annotations

import hmac
import re
from typing import Final
from unicodedata import normalize
from urllib.parse import unquote

HASH_BYTES: Final = 16
MAX_NUMBER: Final = 256
"""Characters of which a number is read."""
_INTERNATIONAL: Final = "00"
"""What many write for the plus sign (ITU-T E.123)."""
_SHORTEST_INTERNATIONAL: Final = 7
"""Digits, these two included, from which on a number that begins with 00 is taken for an international one."""

_in_brackets = re.compile(r"<([^<>]*)>").search
_scheme = re.compile(r"(?:sips?|tel):", re.IGNORECASE).match
_is_written_number = re.compile(r"\+?[0-9 ().\-/*#]*[0-9*#][0-9 ().\-/*#]*").fullmatch
_separators = re.compile(r"[ ().\-/]+")


def normalize_number(text: str) -> str:
    """A number in the one form that is compared: ``+493012345`` of ``"Anna" <sip:0049-30-12345@host;user=phone>``.

    ``00`` in front becomes ``+``, the ``(0)`` of an international number goes. A national number stays national:
    nothing is known of its country. A user who is no number is taken in lower case, without the host. Empty where
    there is neither.
    """
    if text.isascii() and text.removeprefix("+").isdigit() and not text.startswith(_INTERNATIONAL):
        return text[:MAX_NUMBER]
    text = normalize("NFKC", text[:MAX_NUMBER]).strip()
    if found := _in_brackets(text):
        text = found[1].strip()
    if found := _scheme(text):
        text = text[found.end() :]
    user = unquote(text.partition(";")[0].partition("@")[0]).strip()
    if not user.isascii():
        user = "".join(str(int(char)) if char.isdecimal() else char for char in user)
    if not _is_written_number(user):
        return user.casefold()
    is_international = user.startswith(("+", _INTERNATIONAL))
    digits = _separators.sub("", user.replace("(0)", "") if is_international else user)
    if digits.startswith(_INTERNATIONAL) and len(digits) >= _SHORTEST_INTERNATIONAL:
        digits = "+" + digits[len(_INTERNATIONAL) :]
    return digits


class NumberHasher:
    """Makes the keyed hashes; never shows its key."""

    __slots__ = ("_key",)

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def hash(self, number: str) -> bytes | None:
        """16 bytes for a number in any form; None where it has no content."""
        normalized = normalize_number(number)
        if not normalized:
            return None
        return hmac.digest(self._key, normalized.encode("utf-8", "surrogatepass"), "sha256")[:HASH_BYTES]

    def derive(self, purpose: str) -> bytes:
        """A key of 32 bytes for another purpose, which says nothing of this one."""
        return hmac.digest(self._key, b"\0" + purpose.encode(), "sha256")
