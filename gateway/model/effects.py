"""What the media server does with an answer, in words for an operator.

Source: the REST hooks chapters of the Flashphoner WCS 5.2 documentation. Exactly 200 means go on; anything else is an
interaction error, whose effect depends on the method's type and on ``restOnError`` in the session's connect answer.
"""

from __future__ import annotations

from typing import Final

from gateway.model.hooks import KEEP_ALIVE, PLAY_HLS, MethodType

_CONNECT: Final = "the client's session is declined"
_UNLESS: Final = "stopped only if the session's connect answer set restOnError=FAIL for it; otherwise it continues"
_STOPPED: Final = "stopped: the session's connect answer sets restOnError=FAIL for it"
_LOGGED: Final = "only logged by the media server: the session's connect answer does not set restOnError=FAIL"
_STREAM_UNLESS: Final = (
    "the stream is stopped only if the session's connect answer set restOnError=FAIL for it; otherwise it continues"
)
_STREAM_STOPPED: Final = "the stream is stopped: the session's connect answer sets restOnError=FAIL for it"
_STREAM_LOGGED: Final = (
    "the stream continues, and the media server logs it: the session's connect answer does not set restOnError=FAIL"
)
_NO_HLS: Final = "the viewer gets no stream, despite any restOnError: playHLS comes without a connect"
_EVENT: Final = "nothing: it has already happened and cannot be rejected"
_REJECTED: Final = {
    MethodType.CONNECT: _CONNECT,
    MethodType.DIRECT: _UNLESS,
    MethodType.INCOMING: _UNLESS,
    MethodType.EVENT: _EVENT,
}
_REJECTED_SENTENCE: Final = {
    MethodType.CONNECT: "The media server declines the client's session.",
    MethodType.DIRECT: "The media server logs it and goes on, unless the session's connect answer set restOnError=FAIL "
    "for this method: then it stops, with an error to the client.",
    MethodType.INCOMING: "The media server logs it and lets the call through, unless the session's connect answer set "
    "restOnError=FAIL for this method: then it stops it, with an error status to the SIP caller.",
    MethodType.EVENT: "The media server logs it and goes on: an event has already happened and cannot be rejected.",
}
_STOPPED_SENTENCE: Final = {
    MethodType.DIRECT: "The media server stops it, with an error to the client: the session's connect answer set "
    "restOnError=FAIL for this method.",
    MethodType.INCOMING: "The media server stops it, with an error status to the SIP caller: the session's connect "
    "answer set restOnError=FAIL for this method.",
}
_LOGGED_SENTENCE: Final = {
    MethodType.DIRECT: "The media server logs it and goes on, so this rejection stopped nothing: the session's connect "
    "answer did not set restOnError=FAIL for this method.",
    MethodType.INCOMING: "The media server logs it and lets the call through, so this rejection stopped nothing: the "
    "session's connect answer did not set restOnError=FAIL for this method.",
}
_ACCEPTED: Final = {
    MethodType.CONNECT: "The media server accepts the client's session, with what the answer sets for it.",
    MethodType.DIRECT: "The media server goes on with what the client asked for.",
    MethodType.INCOMING: "The media server lets the call go on.",
    MethodType.EVENT: "The media server takes note: an event has already happened.",
}
_STREAM_REJECTED_SENTENCE: Final = (
    "The media server logs it and the stream continues, unless the session's connect answer set restOnError=FAIL for "
    "this method: then it stops the stream."
)
_STREAM_STOPPED_SENTENCE: Final = (
    "The media server stops the stream: the session's connect answer set restOnError=FAIL for this method."
)
_STREAM_LOGGED_SENTENCE: Final = (
    "The media server logs it and the stream continues, so this rejection stopped nothing: the session's connect "
    "answer did not set restOnError=FAIL for this method."
)
_STREAM_RUNS: Final = "The media server lets the stream continue."
_HLS_REJECTED: Final = "The media server rejects the viewer despite any restOnError: playHLS comes without a connect."
_HLS_PLAYS: Final = "The media server plays the stream to the viewer."
_UNKNOWN_METHOD_REJECTED: Final = (
    "The media server logs it. It stops it only if it is no event and the session's connect answer set "
    "restOnError=FAIL for this method."
)
_UNKNOWN_METHOD_ACCEPTED: Final = "The media server goes on."
_CLIENT_LEFT: Final = 499
_LEFT: Final = "The client left before the answer; for a media server, no answer is an error. "


def rejection_effect(kind: MethodType, stops: bool | None = None, method: str = "") -> str:
    """What a 403 does to a hook of a method of this type, as the end of a sentence.

    *stops*: whether the session's connect answer set FAIL for the method; None = unknown. *method* is its name, because
    two methods differ from their type.
    """
    if kind is MethodType.DIRECT:
        if method == PLAY_HLS:
            return _NO_HLS
        if method == KEEP_ALIVE:
            return _STREAM_UNLESS if stops is None else _STREAM_STOPPED if stops else _STREAM_LOGGED
    if stops is None or kind not in _STOPPED_SENTENCE:
        return _REJECTED[kind]
    return _STOPPED if stops else _LOGGED


def answer_effect(status: int, kind: MethodType | None, stops: bool | None = None, method: str = "") -> str:
    """What the media server does with an answer of this status, in one sentence.

    *kind* is the method's type; None for a method that neither catalogue nor configuration lists. *stops*: whether the
    session's connect answer set FAIL for the method; None = unknown. *method* is its name.
    """
    if kind is MethodType.DIRECT and method in (KEEP_ALIVE, PLAY_HLS):
        return _stream_effect(status, method, stops)
    if status == 200:
        return _UNKNOWN_METHOD_ACCEPTED if kind is None else _ACCEPTED[kind]
    rejected = _rejected_sentence(kind, stops)
    return _LEFT + rejected if status == _CLIENT_LEFT else rejected


def changes_effect(changed: str | None, ignored: str | None) -> str:
    """What the media server does with the fields that a fallback changed, as a sentence to append.

    *ignored* are the fields that it is known to ignore. Empty if nothing was changed.
    """
    if changed is None:
        return ""
    if ignored is None:
        return f" It takes {changed} from the answer, if the session's connect answer lets it (restOverwrite)."
    return f" It does not take {ignored} from the answer: the session's connect answer does not let it (restOverwrite)."


def _stream_effect(status: int, method: str, stops: bool | None) -> str:
    """The same for the two methods by which a stream is allowed to play or to go on."""
    if status == 200:
        return _HLS_PLAYS if method == PLAY_HLS else _STREAM_RUNS
    rejected = _HLS_REJECTED
    if method == KEEP_ALIVE:
        rejected = _STREAM_REJECTED_SENTENCE
        if stops is not None:
            rejected = _STREAM_STOPPED_SENTENCE if stops else _STREAM_LOGGED_SENTENCE
    return _LEFT + rejected if status == _CLIENT_LEFT else rejected


def _rejected_sentence(kind: MethodType | None, stops: bool | None) -> str:
    if kind is None:
        return _UNKNOWN_METHOD_REJECTED
    known = None if stops is None else (_STOPPED_SENTENCE if stops else _LOGGED_SENTENCE).get(kind)
    return known or _REJECTED_SENTENCE[kind]
