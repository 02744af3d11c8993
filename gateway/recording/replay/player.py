"""Plays recorded hooks: in order within a session, beside each other across sessions, at the pace that is asked for."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import httpx
import msgspec

from gateway.model.hooks import MethodType, is_json_object, method_type
from gateway.model.text import printable
from gateway.model.verdicts import ALLOW_STATUS, REJECT_STATUS, Cause, Source, Verdict
from gateway.policy.comparison import Compare, ComparedAnswer, compare
from gateway.policy.event_answers import reports_fatal
from gateway.recording import Record
from gateway.recording.masking import Mask
from gateway.recording.pseudonyms import Key, Pseudonyms
from gateway.recording.replay.reader import RecordedHook, Recording
from gateway.recording.replay.report import Tally

MAX_ANSWER: Final = 4 * 2**20
"""Bytes of an answer."""
_LOWEST_FINAL: Final = 200
_HIGHEST: Final = 599
"""RFC 9110, section 15: what is outside of these is no status of an answer."""
_HEADERS: Final = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Content-Type": "application/json;charset=UTF-8",
    "User-Agent": "wcs-gateway replay",
    "X-Gateway-Replay": "1",
}
_MAX_ERROR: Final = 200
_AHEAD: Final = 64
"""Hooks that are read ahead, besides some per connection: they may wait for another hook of their session."""
_is_request_id = re.compile(r"[!-~]{1,128}").fullmatch
_MASKED_EVER: Final = ("caller", "callee")


class Options(NamedTuple):
    """How it is played."""

    url: str
    """Without the method."""
    rate: float | None = None
    """Hooks per second; None: as fast as they are answered."""
    as_recorded: bool = False
    """As far apart as they were."""
    concurrency: int = 8
    compare: Compare = Compare.VERDICT
    ignore: frozenset[str] = frozenset()
    timeout: float = 15.0


class _Answer(NamedTuple):
    """What the candidate made of a hook."""

    answered: ComparedAnswer
    cause: Cause | None
    """Why it gave no verdict."""
    milliseconds: float


class _Exchange(NamedTuple):
    """What came of asking once."""

    status: int
    body: bytes
    cause: Cause | None = None
    error: str = ""
    is_cut: bool = False
    """Whether a connection that had served before ended without an answer."""


class Player:
    """Plays a recording and counts in the *tally*, which may be read at any time."""

    def __init__(
        self, recording: Recording, options: Options, tally: Tally, on_played: Callable[[], None] | None = None
    ) -> None:
        self._recording = recording
        self._options = options
        self._tally = tally
        self._on_played = on_played
        self._url = options.url.rstrip("/")
        self._ready: asyncio.Queue[RecordedHook | None] = asyncio.Queue()
        self._window = asyncio.Semaphore(_AHEAD + 4 * options.concurrency)
        self._busy: dict[bytes, deque[RecordedHook]] = {}
        """Sessions of which a hook is under way, with those that wait for it."""
        self._secrets = Mask((), Pseudonyms(Key()))

    async def play(self) -> None:
        """Play all of it. Raises UnreadableError if a file is changed meanwhile."""
        connections = self._options.concurrency
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        timeout = self._options.timeout
        verify = ssl.create_default_context() if httpx.URL(self._url).scheme == "https" else False
        # As many workers as connections: none of them waits for another.
        async with httpx.AsyncClient(
            trust_env=False, verify=verify, limits=limits, timeout=timeout, headers=_HEADERS
        ) as client:
            tasks = [asyncio.create_task(self._work(client)) for _ in range(connections)]
            tasks.append(asyncio.create_task(self._dispatch()))
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _dispatch(self) -> None:
        async for played in self._pace():
            await self._window.acquire()
            waiting = self._busy.get(played.session) if played.session else None
            if waiting is not None:
                waiting.append(played)
            else:
                if played.session:
                    self._busy[played.session] = deque()
                self._ready.put_nowait(played)
        for _ in range(_AHEAD + 4 * self._options.concurrency):  # until all are done
            await self._window.acquire()
        for _ in range(self._options.concurrency):
            self._ready.put_nowait(None)

    async def _pace(self) -> AsyncIterator[RecordedHook]:
        """Each hook when its time has come."""
        options = self._options
        began, first = time.monotonic(), None
        for number, played in enumerate(self._recording.hooks()):
            due = None
            if options.rate is not None:
                due = number / options.rate
            elif options.as_recorded:
                at = played.record.began
                first = at if first is None else first
                due = at - first
            if due is not None:
                late = time.monotonic() - began - due
                self._tally.behind = max(self._tally.behind, late)
                await asyncio.sleep(max(0.0, -late))
            yield played

    async def _work(self, client: httpx.AsyncClient) -> None:
        while (played := await self._ready.get()) is not None:
            answer = await self._ask(client, played)
            self._judge(played, answer)
            if self._on_played is not None:
                self._on_played()
            waiting = self._busy.get(played.session) if played.session else None
            if waiting:
                self._ready.put_nowait(waiting.popleft())
            elif waiting is not None:
                del self._busy[played.session]
            self._window.release()

    async def _ask(self, client: httpx.AsyncClient, played: RecordedHook) -> _Answer:
        began = time.perf_counter()
        made = await self._exchange(client, played.record)
        if made.is_cut:  # the backend has just given the connection up that it had kept: the gateway asks once more too
            made = await self._exchange(client, played.record)
        milliseconds = (time.perf_counter() - began) * 1000
        verdict, cause, error = None, made.cause, made.error
        # The gateway too goes by the status of an answer that broke off, unless only the body could say yes.
        if cause is None or made.status not in (0, ALLOW_STATUS):
            verdict, cause, error = _judge_answer(made.status, made.body)
            if method_type(played.record.method) is MethodType.EVENT and 200 <= made.status < 300:
                made, verdict, cause, error = _judge_event(made, bytes(played.record.hook))
        return _Answer(ComparedAnswer(verdict, made.status, made.body, error), cause, milliseconds)

    async def _exchange(self, client: httpx.AsyncClient, record: Record) -> _Exchange:
        url = f"{self._url}/{quote(record.method, safe='')}"
        headers = {"X-Request-Id": record.request_id} if _is_request_id(record.request_id) else {}
        body, status, is_new = b"", 0, False

        async def note(event: str, info: object) -> None:
            nonlocal is_new
            is_new |= event.startswith("connection.connect")

        try:
            async with (
                asyncio.timeout(self._options.timeout),
                client.stream(
                    "POST", url, content=bytes(record.hook), headers=headers, extensions={"trace": note}
                ) as response,
            ):
                status = response.status_code
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > MAX_ANSWER:
                        error = f"the answer is larger than {MAX_ANSWER} bytes"
                        return _Exchange(status, body, Cause.BAD_ANSWER, error)
        except (TimeoutError, httpx.TimeoutException):
            error = f"no whole answer within {self._options.timeout:g} s"
            return _Exchange(status, body, Cause.TIMEOUT, error)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as exc:
            cause, error = _explain(exc)
            is_cut = isinstance(exc, httpx.NetworkError | httpx.RemoteProtocolError) and cause is Cause.UNREACHABLE
            return _Exchange(status, body, cause, error, is_cut=is_cut and not status and not is_new)
        return _Exchange(status, body)

    def _judge(self, played: RecordedHook, answer: _Answer) -> None:
        record, tally = played.record, self._tally
        if answer.cause is not None:
            tally.add_failure(played, answer.cause, answer.answered.error)
            return
        if record.source != Source.BACKEND:
            tally.add_uncomparable(played, f"{record.source}/{record.reason}")
            return
        recorded = record.answer_body
        annotations = record.annotations
        how, ignore = self._options.compare, self._options.ignore
        # What the gateway itself has put into an answer is none of the backend's.
        if recorded is None or (annotations is not None and annotations.client_config == "enforced"):
            how = Compare.VERDICT
        ours = ComparedAnswer(record.verdict, record.status, recorded or b"", "")
        theirs = answer.answered
        if how is Compare.BODY and theirs.verdict is Verdict.ALLOW and ours.verdict is Verdict.ALLOW:
            # In the recording there are stars where secrets were.
            theirs = theirs._replace(body=self._secrets.apply(theirs.body))
            overwritten = _overwritten_fields(record, theirs.body)
            tally.fields_not_compared += bool(overwritten)
            ignore |= overwritten
        mask = frozenset((*_MASKED_EVER, *record.masked))
        comparison = compare(ours, theirs, how, ignore, mask)
        tally.add_comparison(played, ours, theirs, comparison, answer.milliseconds)


def _judge_event(made: _Exchange, hook: bytes) -> tuple[_Exchange, Verdict | None, Cause | None, str]:
    """What the gateway makes of a 2xx to an event under ``event_answers: any``, with the body that it gives it."""
    if made.status == ALLOW_STATUS and is_json_object(made.body):
        return made, Verdict.ALLOW, None, ""
    if reports_fatal(made.body):
        return made, None, Cause.BAD_ANSWER, f"a {made.status} with PHP's report of a fatal error"
    return made._replace(body=hook), Verdict.ALLOW, None, ""


def _judge_answer(status: int, body: bytes) -> tuple[Verdict | None, Cause | None, str]:
    """What the gateway makes of an answer under ``response_check: strict``."""
    if status == REJECT_STATUS:
        return Verdict.REJECT, None, ""
    if not _LOWEST_FINAL <= status <= _HIGHEST:
        return None, Cause.BAD_ANSWER, f"status {status} does not exist"
    if status != ALLOW_STATUS:
        return None, Cause.ERROR_STATUS, f"it answers {status}"
    if not is_json_object(body):
        return None, Cause.BAD_ANSWER, "a 200 that is not one JSON object" if body else "an empty 200"
    return Verdict.ALLOW, None, ""


def _explain(exc: Exception) -> tuple[Cause, str]:
    text = printable(str(exc) or type(exc).__name__)[:_MAX_ERROR]
    is_broken = isinstance(exc, httpx.RemoteProtocolError) and not text.startswith("Server disconnected")
    return (Cause.BAD_ANSWER if is_broken else Cause.UNREACHABLE), text


def _overwritten_fields(record: Record, theirs: bytes) -> frozenset[str]:
    """The masked fields that both backends have overwritten: their values cannot be compared.

    One is a pseudonym that cannot be made again, the other the value itself.
    """
    if not record.masked or bytes(record.answer) == b'"same"':
        return frozenset()
    hook, ours, other = (_fields(document) for document in (bytes(record.hook), record.answer_body or b"", theirs))
    masked = {name.lower() for name in record.masked}
    return frozenset(
        name
        for name in ours.keys() & other.keys()
        if name.lower() in masked and ours[name] != hook.get(name) and other[name] != hook.get(name)
    )


def _fields(document: bytes) -> Mapping[str, Any]:
    try:
        fields = msgspec.json.decode(document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}
