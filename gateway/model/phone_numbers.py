"""Telephone numbers as people and providers write them, compared."""

from __future__ import annotations

import re
from typing import Final

_MAX_TEXT: Final = 256
_scheme = re.compile(r"(?:sips?|tel):", re.IGNORECASE)
_separators = re.compile(r"[\s().\-/]+")
_is_number = re.compile(r"\+?[0-9]+").fullmatch


def normalized_number(text: str) -> str:
    """The same for all ways to write a number: digits with the country code, without ``+`` or ``00`` before it.

    A national number stays one: it never equals an international one. Of a SIP or tel URI, the user's part counts; a
    name that is no number is compared without regard to case.
    """
    text = text.strip()[:_MAX_TEXT]
    if text.endswith(">") and "<" in text:
        text = text[text.rfind("<") + 1 : -1]
    scheme = _scheme.match(text)
    if scheme is not None:
        text = text[scheme.end() :]
    user = re.split(r"[@;?]", text, maxsplit=1)[0]
    digits = _separators.sub("", user)
    if not _is_number(digits):
        return user.strip().casefold()
    return digits[1:] if digits.startswith("+") else digits.removeprefix("00")
