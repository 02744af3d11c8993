"""A hook's JSON without its secrets and with pseudonyms; every other byte stays as it came, but for line breaks.

The text is processed token by token and never rebuilt: the order of fields, doubled ones, the way in which
numbers and escapes are written are the same in a replay as they were on the wire.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Collection, Mapping
from enum import Enum
from functools import lru_cache
from typing import Final
from unicodedata import normalize

import msgspec

from gateway.model.secret_names import is_secret_name
from gateway.recording.pseudonyms import Pseudonyms

STARS: Final = "***"
"""The replacement for a secret."""
IDENTIFIERS: Final = frozenset(("nodeid", "appkey", "sessionid", "callid"))
"""Fields that hooks are matched up by: they stay, unless they are to be masked themselves."""
_SHORTEST_KNOWN: Final = 6
"""Characters of a number from which on it is looked for in other texts of its hook."""
_MOST_KNOWN: Final = 16
_tokens = re.compile(
    rb'"(?P<text>[^"\\]*+(?:\\.[^"\\]*+)*+)"(?P<colon>[ \t\r\n]*+:)?'
    rb"|(?P<open>[{\[])|(?P<close>[}\]])|(?P<number>-?[0-9][0-9.eE+-]*+)|true|false|null"
).finditer
_is_plain_number = re.compile(rb"-?[0-9]{1,64}(?:\.[0-9]{1,64})?").fullmatch
_decode = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode

_Match = Callable[[bytes, int], re.Match[bytes] | None]
_MARKS: Final = (
    b"pass", b"pwd", b"secret", b"token", b"auth", b"credential", b"cookie", b"api", b"signature", b"inline:", b"://",
    b"bearer ", b"basic ", b"pin", b"hash", b"nonce",
)  # fmt: skip
"""What a secret in the midst of a text begins with, in lower case."""
_VALUE: Final = rb"""
    \\*["']?[ \t]*[:=]>?[ \t]*
    (?:
        "(?P<quoted>[^"\\]*+(?:\\.[^"\\]*+)*+)
        | '(?P<single>[^'\\]*+(?:\\.[^'\\]*+)*+)
        | \\+["'](?P<nested>[^\r\n]*)  # JSON within JSON: where it ends is not worth a mistake
        | (?P<bare>[^\s&;,"'<>{}\\]+)
    )"""


def _assignment(name: bytes) -> _Match:
    """What finds a value, as the group that it matched last, from the beginning of its name on."""
    return re.compile(b"(?i:" + name + b")" + _VALUE, re.VERBOSE | re.DOTALL).match


_word = _assignment(
    rb"""
    (?: (?<![A-Za-z]) | (?-i:(?<=[a-z])(?=[A-Z])) | (?=hash|nonce) )  # a word of its own: "pin", not "spin"
    (?:auth|pass|pin|hash(?:es)?|nonce) (?:[_-][\w-]{0,64})? [0-9]{0,8}
    """
)
# A line that begins with a space continues the one before (RFC 3261, section 7.3.1).
_field = re.compile(
    rb"(?:authorization|cookie)[ \t]*[:=][ \t]*(?P<secret>[^\r\n]++(?:\r?\n[ \t][^\r\n]*+)*+)", re.IGNORECASE
).match
_bearer = re.compile(rb"bearer[ ]++(?P<secret>[\w.~+/-]{8,}+=*)", re.IGNORECASE).match
_might_be_basic = re.compile(rb"basic[ ]++(?P<secret>[A-Za-z0-9+/]{4,}+)={0,2}", re.IGNORECASE).match
_media_key = re.compile(rb"inline:(?P<secret>[^\s|]+)").match
_in_url = re.compile(rb"://[^/\s:@\"'<>]{0,256}:(?P<secret>[^/\s@\"'<>]{1,256})@").match
_has_digit = re.compile(rb"[0-9]").search


def _basic(data: bytes, at: int) -> re.Match[bytes] | None:
    """Credentials of HTTP (RFC 7617), not the first word of "basic subscription"."""
    found = _might_be_basic(data, at)
    if found is None:
        return None
    encoded = found["secret"]
    try:
        return found if b":" in b64decode(encoded + b"=" * (-len(encoded) % 4)) else None
    except ValueError:
        return None


_PATTERNS: Final[Mapping[bytes, tuple[_Match, ...]]] = {
    b"pass": (_assignment(rb"pass(?:word|wd|phrase)[\w-]{0,64}"), _word),
    b"auth": (_field, _assignment(rb"authorization[\w-]{0,64}"), _word),
    b"cookie": (_field, _assignment(rb"cookie[\w-]{0,64}")),
    b"api": (_assignment(rb"api[_-]?key[\w-]{0,64}"),),
    b"inline:": (_media_key,),
    b"://": (_in_url,),
    b"bearer ": (_bearer,),
    b"basic ": (_basic,),
    **{
        mark: (_assignment(mark + rb"[\w-]{0,64}"),)
        for mark in (b"pwd", b"secret", b"token", b"credential", b"signature")
    },
    **dict.fromkeys((b"pin", b"hash", b"nonce"), (_word,)),
}


class _Kind(Enum):
    PLAIN = 0
    IDENTIFIER = 1
    MASKED = 2
    SECRET = 3


class Mask:
    """Masks one hook after the other. For one thread."""

    def __init__(self, fields: Collection[str], pseudonyms: Pseudonyms) -> None:
        self._fields = frozenset(field.lower() for field in fields)
        self._pseudonyms = pseudonyms
        self._field_kind = lru_cache(1024)(self._find_kind)

    def apply(self, document: bytes, known: set[str] | None = None) -> bytes:
        """A JSON document, on one line; *document* must be valid.

        *known* are the numbers that masked fields have brought, of this document or one before, and is added to: they
        are replaced in every other text too, an SDP or a SIP message, but for the identifiers of hooks.
        """
        return _DocumentMasker(self, self._pseudonyms, set() if known is None else known).run(document)

    def field_kind(self, name: bytes) -> _Kind:
        """How the values of a field are treated, by its name as it is written in the JSON."""
        return self._field_kind(name) if len(name) <= 64 else self._find_kind(name)

    def _find_kind(self, written: bytes) -> _Kind:
        name = normalize("NFKC", _text(written))  # a full-width "p" is a "p"
        lower = name.lower()
        if is_secret_name(name):
            return _Kind.SECRET
        if lower in self._fields:
            return _Kind.MASKED
        return _Kind.IDENTIFIER if lower in IDENTIFIERS else _Kind.PLAIN


class _DocumentMasker:
    """One way through a document."""

    def __init__(self, mask: Mask, pseudonyms: Pseudonyms, known: set[str]) -> None:
        self._mask = mask
        self._pseudonyms = pseudonyms
        self._known = known
        self._changes: list[tuple[int, int, bytes]] = []
        self._texts: list[tuple[int, int, str]] = []
        """Those that are neither masked nor secret, where they stand; names of fields too, if there is a digit in."""
        self._numbers: list[tuple[int, int, str]] = []
        self._depth = 0
        self._masked_from = 0
        """The depth of the value that is masked completely; 0: none is."""
        self._secret_from = 0
        self._secret_start = 0

    def run(self, document: bytes) -> bytes:
        kind = _Kind.PLAIN
        for token in _tokens(document):
            which = token.lastgroup
            if which == "colon":
                kind = self._mask.field_kind(token["text"])
                if not self._secret_from and _has_digit(token["text"]):
                    self._texts.append((token.start("text") - 1, token.end("text") + 1, _text(token["text"])))
            elif which == "open":
                self._open(kind, token.start())
                kind = _Kind.PLAIN
            elif which == "close":
                self._close(token.end())
                kind = _Kind.PLAIN
            else:
                if not self._secret_from:
                    self._value(_Kind.MASKED if self._masked_from and kind is not _Kind.SECRET else kind, token)
                kind = _Kind.PLAIN
        return self._join(document)

    def _open(self, kind: _Kind, at: int) -> None:
        self._depth += 1
        if self._secret_from:
            return
        if kind is _Kind.SECRET:
            self._secret_from, self._secret_start = self._depth, at
        elif kind is _Kind.MASKED and not self._masked_from:
            self._masked_from = self._depth

    def _close(self, end: int) -> None:
        if self._secret_from == self._depth:
            self._secret_from = 0
            self._changes.append((self._secret_start, end, b'"%b"' % STARS.encode()))
        if self._masked_from == self._depth:
            self._masked_from = 0
        self._depth -= 1

    def _value(self, kind: _Kind, token: re.Match[bytes]) -> None:
        start, end = token.span()
        which = token.lastgroup
        if kind is _Kind.SECRET:
            if token[0] != b"null":
                self._changes.append((start, end, b'"%b"' % STARS.encode()))
        elif which == "text":
            text = _text(token["text"])
            if kind is _Kind.MASKED:
                self._changes.append((start, end, _encode(self._pseudonyms.pseudonym(text))))
                self._note(text)
            elif kind is _Kind.PLAIN and len(text) >= _SHORTEST_KNOWN:
                self._texts.append((start, end, text))
        elif which == "number" and kind is _Kind.MASKED:
            number = token[0].decode()
            self._note(number)
            pseudonym = self._pseudonyms.pseudonym(number) if _is_plain_number(token[0]) else "0"
            self._changes.append((start, end, pseudonym.encode()))
        elif which == "number" and kind is _Kind.PLAIN and end - start >= _SHORTEST_KNOWN:
            self._numbers.append((start, end, token[0].decode()))

    def _note(self, text: str) -> None:
        for part in self._pseudonyms.parts(text):
            if len(part) >= _SHORTEST_KNOWN and len(self._known) < _MOST_KNOWN and any(map(str.isdigit, part)):
                self._known.add(part)

    def _join(self, document: bytes) -> bytes:
        for start, end, text in self._texts:
            cleaned = self._clean(text)
            if cleaned != text:
                self._changes.append((start, end, _encode(cleaned)))
        for start, end, number in self._numbers:
            if number in self._known:
                self._changes.append((start, end, self._pseudonyms.pseudonym(number).encode()))
        pieces: list[bytes] = []
        done = 0
        for start, end, instead in sorted(self._changes):
            pieces += (document[done:start], instead)
            done = end
        pieces.append(document[done:])
        # Within a text a line break is an escape: these stand between the tokens.
        return b"".join(pieces).replace(b"\n", b" ").replace(b"\r", b" ")

    def _clean(self, text: str) -> str:
        """A text without the secrets that stand in its midst, and with the pseudonyms of the hook's own numbers."""
        found = sorted((part for part in self._known if part in text), key=len, reverse=True)
        if found:
            either = "|".join(map(re.escape, found))
            text = re.sub(
                rf"(?<![^\W_])(?:{either})(?![^\W_])", lambda match: self._pseudonyms.pseudonym(match[0]), text
            )
        return hide_secrets(text)


def hide_secrets(text: str) -> str:
    """A text with stars for what looks like a secret in its midst: ``token=…``, ``Authorization: …``, media keys."""
    if ":" not in text and "=" not in text and " " not in text:  # each of the patterns below has one of them
        return text
    data = text.encode("utf-8", "surrogatepass")
    lower = data.lower()
    spans = []
    for mark in _MARKS:
        at = lower.find(mark)
        while at >= 0:
            end = at + len(mark)
            for pattern in _PATTERNS[mark]:
                if secret := pattern(data, at):
                    spans.append(secret.span(secret.lastgroup or 0))
                    end = max(end, spans[-1][1])
                    break
            at = lower.find(mark, end)  # never twice over the same text, however often it has the mark
    if not spans:
        return text
    pieces: list[bytes] = []
    done = 0
    for start, end in sorted(spans):
        if start >= done:
            pieces += (data[done:start], STARS.encode())
        done = max(done, end)
    pieces.append(data[done:])
    return b"".join(pieces).decode("utf-8", "surrogatepass")


def _text(written: bytes) -> str:
    """A JSON string's text, from the bytes between its quotes."""
    return _decode(b'"%b"' % written) if b"\\" in written else written.decode("utf-8")
