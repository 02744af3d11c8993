"""What the media server does with an answer, in words for an operator.

By the REST hooks chapters of the Flashphoner WCS 5.2 documentation: exactly 200 goes on; anything else is an
interaction error, whose weight depends on the method's type and on ``restOnError`` in the session's connect answer.
"""

from __future__ import annotations

from typing import Final

from gateway.model.hooks import KEEP_ALIVE, PLAY_HLS, MethodType

_CONNECT: Final = "the client's session is declined"
_UNLESS: Final = "stopped only if the session's connect answer set restOnError=FAIL for it; else it goes on"
_STOPPED: Final = "stopped: the session's connect answer sets restOnError=FAIL for it"
_LOGGED: Final = (
    "nothing but a line in the media server's log: the session's connect answer does not set restOnError=FAIL"
)
_STREAM_UNLESS: Final = (
    "the stream is stopped only if the session's connect answer set restOnError=FAIL for it; else it runs on"
)
_STREAM_STOPPED: Final = "the stream is stopped: the session's connect answer sets restOnError=FAIL for it"
_STREAM_LOGGED: Final = (
    "the stream runs on, with a line in the media server's log: the session's connect answer does not set "
    "restOnError=FAIL"
)
_NO_HLS: Final = "the viewer gets no stream, with any restOnError: playHLS comes without a connect"
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
_STOPPED_IN_FULL: Final = {
    MethodType.DIRECT: "The media server stops it, with an error to the client: the session's connect answer set "
    "restOnError=FAIL for this method.",
    MethodType.INCOMING: "The media server stops it, with an error status to the SIP caller: the session's connect "
    "answer set restOnError=FAIL for this method.",
}
_LOGGED_IN_FULL: Final = {
    MethodType.DIRECT: "The media server logs it and goes on, so this refusal stopped nothing: the session's connect "
    "answer did not set restOnError=FAIL for this method.",
    MethodType.INCOMING: "The media server logs it and lets the call through, so this refusal stopped nothing: the "
    "session's connect answer did not set restOnError=FAIL for this method.",
}
_ACCEPTED: Final = {
    MethodType.CONNECT: "The media server accepts the client's session, with what the answer sets for it.",
    MethodType.DIRECT: "The media server goes on with what the client asked for.",
    MethodType.INCOMING: "The media server lets the call go on.",
    MethodType.EVENT: "The media server takes note: an event has happened already.",
}
_STREAM_REFUSED_IN_FULL: Final = (
    "The media server logs it and the stream runs on, unless the session's connect answer set restOnError=FAIL for "
    "this method: then it stops the stream."
)
_STREAM_STOPPED_IN_FULL: Final = (
    "The media server stops the stream: the session's connect answer set restOnError=FAIL for this method."
)
_STREAM_LOGGED_IN_FULL: Final = (
    "The media server logs it and the stream runs on, so this refusal stopped nothing: the session's connect answer "
    "did not set restOnError=FAIL for this method."
)
_STREAM_RUNS: Final = "The media server lets the stream run on."
_HLS_REFUSED: Final = "The media server refuses the viewer, with any restOnError: playHLS comes without a connect."
_HLS_PLAYS: Final = "The media server plays the stream to the viewer."
_UNKNOWN_METHOD_REFUSED: Final = (
    "The media server logs it; it stops at most what is no event, and that only if the session's connect answer set "
    "restOnError=FAIL for this method."
)
_UNKNOWN_METHOD_ACCEPTED: Final = "The media server goes on."
_CLIENT_LEFT: Final = 499
_LEFT: Final = "Nobody was there any more to be answered; to a media server, no answer is an error. "


def rejection_effect(kind: MethodType, stops: bool | None = None, method: str = "") -> str:
    """What a 403 does to a hook of a method of this type, as the end of a sentence.

    *stops* is whether the session's connect answer set FAIL for the method; None = that is not known. *method* is its
    name, for those two of which more is known.
    """
    if kind is MethodType.DIRECT:
        if method == PLAY_HLS:
            return _NO_HLS
        if method == KEEP_ALIVE:
            return _STREAM_UNLESS if stops is None else _STREAM_STOPPED if stops else _STREAM_LOGGED
    if stops is None or kind not in _STOPPED_IN_FULL:
        return _REFUSED[kind]
    return _STOPPED if stops else _LOGGED


def answer_effect(status: int, kind: MethodType | None, stops: bool | None = None, method: str = "") -> str:
    """What the media server does with an answer of this status, in one sentence.

    *kind* is the method's type; None for a method of which neither catalogue nor configuration know. *stops* is
    whether the session's connect answer set FAIL for the method; None = that is not known. *method* is its name.
    """
    if kind is MethodType.DIRECT and method in (KEEP_ALIVE, PLAY_HLS):
        return _of_stream(status, method, stops)
    if status == 200:
        return _UNKNOWN_METHOD_ACCEPTED if kind is None else _ACCEPTED[kind]
    refused = _refused(kind, stops)
    return _LEFT + refused if status == _CLIENT_LEFT else refused


def changes_effect(changed: str | None, ignored: str | None) -> str:
    """What the media server does with the fields that a fallback changed, as a sentence after that of the answer.

    *ignored* are those of them that it is known not to take. Empty where nothing was changed.
    """
    if changed is None:
        return ""
    if ignored is None:
        return f" It takes {changed} from the answer, if the session's connect answer lets it (restOverwrite)."
    return f" It does not take {ignored} from the answer: the session's connect answer does not let it (restOverwrite)."


def _of_stream(status: int, method: str, stops: bool | None) -> str:
    """The same for the two methods by which a stream is allowed to play or to go on."""
    if status == 200:
        return _HLS_PLAYS if method == PLAY_HLS else _STREAM_RUNS
    refused = _HLS_REFUSED
    if method == KEEP_ALIVE:
        refused = _STREAM_REFUSED_IN_FULL
        if stops is not None:
            refused = _STREAM_STOPPED_IN_FULL if stops else _STREAM_LOGGED_IN_FULL
    return _LEFT + refused if status == _CLIENT_LEFT else refused


def _refused(kind: MethodType | None, stops: bool | None) -> str:
    if kind is None:
        return _UNKNOWN_METHOD_REFUSED
    known = None if stops is None else (_STOPPED_IN_FULL if stops else _LOGGED_IN_FULL).get(kind)
    return known or _REFUSED_IN_FULL[kind]
