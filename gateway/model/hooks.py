"""The media server's hooks: the catalogue of method names, and a request read without re-encoding it.

The four types decide what a rejection does in the media server. Source: the REST hooks chapters of the
Flashphoner WCS 5.2 documentation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec

from gateway.model.text import shorten


class MethodType(StrEnum):
    """How the media server treats a method's answer."""

    CONNECT = "connect"
    """A client's session begins; a rejection declines it."""
    DIRECT = "direct"
    """A client asks for something; a rejection stops it only with restOnError=FAIL."""
    EVENT = "event"
    """It has already happened and cannot be rejected."""
    INCOMING = "incoming"
    """A call, message or transfer comes in; a rejection stops it only with restOnError=FAIL."""


_DIRECT = (
    "call answer hold unhold transfer hangup sendDTMF sendDtmf sendMessage sendIMDN subscribe sendXcapRequest "
    "publishStream unPublishStream playStream pauseStream stopStream playHLS playRTSP snapshot OnDataEvent "
    "sendBugReport submitBugReport pushLogs sessionDebug availableStream"
).split()
KEEP_ALIVE: Final = "StreamKeepAliveEvent"
"""Asks whether a running stream may go on, though its name says that it is an event; a 403 can stop it."""
PLAY_HLS: Final = "playHLS"
"""Comes without a connect, for all viewers of a stream in one session; a 403 always rejects."""
_EVENTS = (
    "ConnectionStatusEvent RegistrationStatusEvent CallStatusEvent TransferStatusEvent MessageStatusEvent "
    "SubscriptionStatusEvent XcapStatusEvent StreamStatusEvent DataStatusEvent BugReportStatusEvent "
    "SessionDebugStatusEvent ErrorEvent ErrorStatusEvent RecordingStatusEvent StreamsStatEvent "
    "StreamTranscodingGroupEvent"
).split()
_INCOMING = ("OnCallEvent", "OnMessageEvent", "OnTransferEvent")

CATALOGUE: Final[Mapping[str, MethodType]] = {
    "connect": MethodType.CONNECT,
    **dict.fromkeys((*_DIRECT, KEEP_ALIVE), MethodType.DIRECT),
    **dict.fromkeys(_EVENTS, MethodType.EVENT),
    **dict.fromkeys(_INCOMING, MethodType.INCOMING),
}
"""The method names that the documentation lists, with their types."""
_is_question: Final = re.compile(r"On(?![a-z])").match


def method_type(method: str, extra: Mapping[str, MethodType] | None = None) -> MethodType:
    """The type of a method; *extra* is the configuration's ``hook_types``, which wins.

    A name in neither list is an event if it ends in ``Event`` (``XEvent``), else a direct invocation; so is
    ``OnXEvent``, with ``On`` as a word of its own.
    """
    if extra is not None and method in extra:
        return extra[method]
    known = CATALOGUE.get(method)
    if known is not None:
        return known
    return MethodType.EVENT if method.endswith("Event") and not _is_question(method) else MethodType.DIRECT


class AppKey(str):
    """A hook's ``appKey``: a class of its own, so that the decoder reports each one in a body (see HookReader)."""

    __slots__ = ()


class Hook(msgspec.Struct, frozen=True, gc=False):
    """The fields of a hook's body that the gateway reads; all others are skipped."""

    app_key: AppKey = msgspec.field(name="appKey")
    node_id: msgspec.Raw = msgspec.field(name="nodeId", default=msgspec.Raw())
    session_id: msgspec.Raw = msgspec.field(name="sessionId", default=msgspec.Raw())
    call_id: msgspec.Raw = msgspec.field(name="callId", default=msgspec.Raw())
    caller: msgspec.Raw = msgspec.Raw()
    callee: msgspec.Raw = msgspec.Raw()


def own_session(hook: Hook, method: str) -> msgspec.Raw:
    """The JSON of the session's id; empty for hooks of HLS, where all viewers of a stream share one."""
    raw = hook.session_id
    return _NO_SESSION if method == PLAY_HLS or bytes(raw).endswith(_SHARED) else raw


_NO_SESSION: Final = msgspec.Raw()
_SHARED: Final = b'-HLS"'
"""End of a session id that all viewers of a stream share; other ids are made of two addresses."""


class _AnyObject(msgspec.Struct):
    """Any JSON object: checked to its end, nothing kept."""


class BadHookError(ValueError):
    """The body is no hook; the message says why, for the people who have to fix the sender."""


_decode_string = msgspec.json.Decoder(str).decode
_decode_object = msgspec.json.Decoder(_AnyObject).decode
_lone_surrogate = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]"
).search


class HookReader:
    """Reads the bodies of hooks, one after the other. For one thread."""

    __slots__ = ("_app_keys", "_decode")

    def __init__(self) -> None:
        app_keys: list[str] = []

        def note_app_key(_: type, value: object) -> AppKey:
            if not isinstance(value, str):
                raise TypeError("it is not a string")
            app_keys.append(value)
            return AppKey(value)

        self._app_keys = app_keys
        """Those of the body that is being read."""
        self._decode = msgspec.json.Decoder(Hook, dec_hook=note_app_key).decode

    def read(self, body: bytes) -> Hook:
        """Read strict UTF-8 JSON (RFC 8259): one object with exactly one ``appKey``, a string.

        Raises BadHookError with a message for the client.
        """
        app_keys = self._app_keys
        app_keys.clear()
        try:
            if not body.isascii():
                body.decode("utf-8")
            hook = self._decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise BadHookError(_explain(body, exc)) from exc
        # With a second one, however it is spelt, the gateway would route by one and the backend might act on the other.
        if len(app_keys) != 1:
            raise BadHookError("appKey appears more than once in the body")
        if not hook.app_key:
            raise BadHookError("appKey is empty")
        return hook


def parse_hook(body: bytes) -> Hook:
    """Read one hook's body as ``HookReader.read`` does; many are read faster by one reader. Raises BadHookError."""
    return HookReader().read(body)


def is_json_object(body: bytes) -> bool:
    """Whether the bytes are exactly one JSON object in strict UTF-8, white space around it allowed."""
    try:
        if not body.isascii():
            body.decode("utf-8")
        _decode_object(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def field_text(raw: msgspec.Raw, limit: int = 256) -> str | None:
    """A field of the hook as text for the log, shortened; None if the hook does not have it."""
    if not raw:
        return None
    try:
        text = _decode_string(raw)
    except msgspec.MsgspecError:  # no string: as it is written in the hook
        text = bytes(raw).decode("utf-8", "replace")
        if text == "null":
            return None
    return text if len(text) <= limit else shorten(text, limit)


def _explain(body: bytes, exc: Exception) -> str:
    if not body.strip():
        return "the body is empty; a hook is a JSON object with a string appKey"
    if isinstance(exc, UnicodeDecodeError):
        return f"the body is not UTF-8 (byte {exc.start})"
    if isinstance(exc, RecursionError):
        return "the body is nested too deeply"
    if isinstance(exc, msgspec.ValidationError):
        text = str(exc)
        if "missing required field" in text:
            return "the body has no appKey"
        if "$.appKey" in text:
            return "appKey is not a string"
        return "the body is JSON, but not an object"
    if body.startswith(b"\xef\xbb\xbf"):
        return "the body is not valid JSON: it begins with a byte-order mark"
    found = re.search(r"byte (\d+)", str(exc))
    if found:
        return f"the body is not valid JSON (error at byte {found.group(1)})"
    if _lone_surrogate(body):
        return "the body is not valid JSON: an escape in it is half of a surrogate pair"
    return "the body is not valid JSON: it ends too early"
