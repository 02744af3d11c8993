"""Pseudonyms of phone numbers and names: of the same length and shape, the same for the same, different for different.

What stays, so that number plans still have their say: ``sip:``, ``sips:`` and ``tel:``, an ``@`` with its domain, the
``+`` or ``00`` with its country code, a leading zero, punctuation, and emergency numbers. The rest is enciphered digit
by digit and letter by letter with a format-preserving Feistel network over mixed radices (the idea of NIST SP 800-38G,
FF1; the round function here is keyed BLAKE2b, RFC 7693). A permutation: two numbers never become one.
"""

from __future__ import annotations

import os
import re
import unicodedata
from hashlib import blake2b
from typing import Final

_ROUNDS: Final = 8
_CACHED: Final = 4096
_CACHED_LENGTH: Final = 128
MAX_TEXT: Final = 256
"""Characters of a number, an address or a name; a longer text, an SDP say, gets a name of its own."""
_EMERGENCY: Final = frozenset(("110", "112", "911", "999"))
"""They identify nobody, and a replay must not miss a rule for them."""
_ONE_DIGIT_CODES: Final = frozenset("17")
_TWO_DIGIT_CODES: Final = frozenset(
    "20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 65 66 81 82 84 86 "
    "90 91 92 93 94 95 98".split()
)
"""Country codes of ITU-T E.164; all others have three digits."""
_LEAST_AFTER_CODE: Final = 4
"""Digits that must be left to hide where a country code stays."""

_ALPHABETS: Final = ((0x30, 10), (0x41, 26), (0x61, 26), (0x410, 32), (0x430, 32), (0x4E00, 20902))
"""First character and number of characters: within these a character stays."""
_LETTERS: Final = (0x61, 26)
"""The replacement for letters of other alphabets."""

_part = re.compile(
    r"""
    (?P<kept>
        (?<![^\W_])(?:sips?|tel):
        # A domain; not where there is a phone number in it.
        | @(?=[^\s<>;,"]{0,255}[A-Za-z.:])(?![A-Za-z0-9.:\[\]_-]{0,255}[0-9]{7})[A-Za-z0-9.:\[\]_-]{1,255}
        | ;(?:user=phone|transport=(?:udp|tcp|tls|wss?))(?![^\W_])
    )
    | (?P<number> \+?[0-9](?:[0-9\ ().\-/]{0,40}[0-9])?(?![^\W_]) )
    | (?P<word> [^\W_]{1,32} )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_digit = re.compile(r"[0-9]")


class Key:
    """What pseudonyms are made with; never shows itself."""

    __slots__ = ("_bytes",)

    def __init__(self, value: bytes | None = None) -> None:
        self._bytes = os.urandom(32) if value is None else value

    @property
    def run(self) -> str:
        """A name for it, which says nothing of it: pseudonyms can be compared where these are equal."""
        return blake2b(b"run", key=self._bytes, digest_size=4).hexdigest()

    def number(self, data: bytes) -> int:
        """A number of 128 bits that follows from key and data."""
        return int.from_bytes(blake2b(data, key=self._bytes, digest_size=16).digest(), "big")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self._bytes == other._bytes

    def __hash__(self) -> int:
        return hash(self._bytes)

    def __repr__(self) -> str:
        return f"<Key of run {self.run}>"


class Pseudonyms:
    """Gives texts their pseudonyms. For one thread."""

    def __init__(self, key: Key) -> None:
        self._key = key
        self._cache: dict[str, str] = {}

    def pseudonym(self, text: str) -> str:
        """The pseudonym of a phone number, a SIP address or a name."""
        known = self._cache.get(text)
        if known is not None:
            return known
        if len(text) > MAX_TEXT:
            return f"masked-{self._key.number(text.encode('utf-8', 'surrogatepass')):032x}"
        pseudonym = _part.sub(self._replace_part, text)
        if len(text) <= _CACHED_LENGTH:
            if len(self._cache) >= _CACHED:
                self._cache.clear()
            self._cache[text] = pseudonym
        return pseudonym

    def parts(self, text: str) -> list[str]:
        """What of a text has a pseudonym: numbers, as they are written and without their ornaments, and words."""
        found: list[str] = []
        for match in _part.finditer(text[:_CACHED_LENGTH]):
            if match["number"] is not None:
                found += {match["number"], "".join(_digit.findall(match["number"]))}
            elif match["word"] is not None:
                found.append(match["word"])
        return found

    def _replace_part(self, match: re.Match[str]) -> str:
        if match["kept"] is not None:
            return match["kept"]
        return (
            self._word_pseudonym(match["word"]) if match["number"] is None else self._number_pseudonym(match["number"])
        )

    def _number_pseudonym(self, written: str) -> str:
        digits = "".join(_digit.findall(written))
        if written in _EMERGENCY:
            return written
        kept = _kept_digits(digits, international=written.startswith("+"))
        pseudonym = digits[:kept] + self._permute(digits[kept:], b"")
        while pseudonym in _EMERGENCY:  # they stand for themselves alone; who comes to one goes on ("cycle walking")
            pseudonym = self._permute(pseudonym, b"")
        replaced = iter(pseudonym)
        return _digit.sub(lambda _: next(replaced), written)

    def _word_pseudonym(self, word: str) -> str:
        # Letters of other alphabets are mapped onto fewer: then the whole word has its say in what comes out.
        is_exact = all(_alphabet(letter)[2] for letter in word)
        return self._permute(word, b"" if is_exact else word.encode("utf-8", "surrogatepass"))

    def _permute(self, word: str, tweak: bytes) -> str:
        if not word:
            return word
        alphabets = [_alphabet(letter) for letter in word]
        if word[0] in "123456789":  # never a zero in front: it would be a trunk prefix
            alphabets[0] = (0x31, 9, True)
        elif word[0] == "0":
            alphabets[0] = (0x30, 1, True)
        values = [(ord(letter) - first) % radix for letter, (first, radix, _) in zip(word, alphabets, strict=True)]
        radices = [radix for _, radix, _ in alphabets]
        half = len(word) // 2
        left, left_size = _join(values[:half], radices[:half])
        right, right_size = _join(values[half:], radices[half:])
        shape = b"%b/%b/" % (tweak, ",".join(map(str, radices)).encode())
        for number in range(0, _ROUNDS, 2):
            left = (left + self._key.number(b"%b%d/%d" % (shape, number, right))) % left_size
            right = (right + self._key.number(b"%b%d/%d" % (shape, number + 1, left))) % right_size
        permuted = _split(left, radices[:half]) + _split(right, radices[half:])
        return "".join(chr(first + value) for value, (first, _, _) in zip(permuted, alphabets, strict=True))


def _kept_digits(digits: str, *, international: bool) -> int:
    """How many digits in front stay: 00, a country code, one leading zero."""
    kept = 0
    if international or digits.startswith("00"):
        kept = 0 if international else 2
        code = digits[kept:]
        length = 1 if code[:1] in _ONE_DIGIT_CODES else 2 if code[:2] in _TWO_DIGIT_CODES else 3
        if len(code) - length >= _LEAST_AFTER_CODE and not code.startswith("0"):
            kept += length
    # The zero of "+49 (0) 30" too, so that the rest is the same as without.
    return kept + digits.startswith("0", kept)


def _alphabet(letter: str) -> tuple[int, int, bool]:
    """An alphabet's first character, its size, and whether it has this letter."""
    code = ord(letter)
    for first, size in _ALPHABETS:
        if first <= code < first + size:
            return first, size, True
    if letter.isdecimal():
        return code - unicodedata.decimal(letter), 10, True
    return (*_LETTERS, False)


def _join(values: list[int], radices: list[int]) -> tuple[int, int]:
    """The values as one number in mixed radices, and how many such numbers there are."""
    number, size = 0, 1
    for value, radix in zip(values, radices, strict=True):
        number = number * radix + value
        size *= radix
    return number, size


def _split(number: int, radices: list[int]) -> list[int]:
    values = []
    for radix in reversed(radices):
        number, value = divmod(number, radix)
        values.append(value)
    return values[::-1]
