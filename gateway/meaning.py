"""What the media server does with an answer, in words for an operator.

By the REST hooks chapters of the Flashphoner WCS 5.2 documentation: exactly 200 goes on; anything else is an
interaction error, whose weight depends on the method's type and on ``restOnError`` in the session's connect answer.
"""

from __future__ import annotations

from typing import Final

from gateway.hooks import MethodType

_CONNECT: Final = "the client's session is declined"
_UNLESS: Final = "stopped only if the session's connect answer set restOnError=FAIL for it; else it goes on"
_EVENT: Final = "nothing: it has happened already and cannot be refused"
_REFUSED: Final = {
    MethodType.CONNECT: _CONNECT,
    MethodType.DIRECT: _UNLESS,
    MethodType.INCOMING: _UNLESS,
    MethodType.EVENT: _EVENT,
}
_REFUSED_IN_FULL: Final = {
    MethodType.CONNECT: "The media server declines the client's session.",
    MethodType.DIRECT: "The media server logs it and goes on, unless the session's connect answer set restOnError=FAIL "
    "for this method: then it stops, with an error to the client.",
    MethodType.INCOMING: "The media server logs it and lets the call through, unless the session's connect answer set "
    "restOnError=FAIL for this method: then it stops it, with an error status to the SIP caller.",
    MethodType.EVENT: "The media server logs it and goes on: an event has happened already and cannot be refused.",
}
_ACCEPTED: Final = {
    MethodType.CONNECT: "The media server accepts the client's session, with what the answer sets for it.",
    MethodType.DIRECT: "The media server goes on with what the client asked for.",
    MethodType.INCOMING: "The media server lets the call go on.",
    MethodType.EVENT: "The media server takes note: an event has happened already.",
}
_UNKNOWN_METHOD_REFUSED: Final = (
    "The media server logs it; it stops at most what is no event, and that only if the session's connect answer set "
    "restOnError=FAIL for this method."
)
_UNKNOWN_METHOD_ACCEPTED: Final = "The media server goes on."
_CLIENT_LEFT: Final = 499
_LEFT: Final = "Nobody was there any more to be answered; to a media server, no answer is an error. "


def of_refusal(kind: MethodType) -> str:
    """What a 403 does to a hook of a method of this type, as the end of a sentence."""
    return _REFUSED[kind]


def of_answer(status: int, kind: MethodType | None) -> str:
    """What the media server does with an answer of this status, in one sentence.

    *kind* is the method's type; None for a method of which neither catalogue nor configuration know.
    """
    if status == 200:
        return _UNKNOWN_METHOD_ACCEPTED if kind is None else _ACCEPTED[kind]
    refused = _UNKNOWN_METHOD_REFUSED if kind is None else _REFUSED_IN_FULL[kind]
    return _LEFT + refused if status == _CLIENT_LEFT else refused
