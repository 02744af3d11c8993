"""The hooks that are sent: an incoming call with an SDP, as long as is asked for, each with a call id of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

APP_MARK: Final = b"{APP}"
"""Stands where each hook's five digits of an app's number belong."""
CALL_MARK: Final = b"{-----CALL-----}"
"""Stands where each hook's sixteen characters of a call id belong."""
STRIDE: Final = 7919
"""Apps take turns in such steps, so that neighbours in a table are not neighbours in time; a prime reaches them all."""


def app_name(number: int | str) -> str:
    """The appKey of one app."""
    return f"app-{number:0>5}"


def call_body(size: int) -> bytes:
    """A JSON body of so many bytes, with the marks in it."""
    fields = {
        "nodeId": "Qb2xW0mT7cLrYd5sKfUe1nHp@127.0.0.1",
        "appKey": app_name(APP_MARK.decode()),
        "sessionId": "/127.0.0.1:50122/127.0.0.1:8443",
        "callId": CALL_MARK.decode(),
        "incoming": True,
        "status": "PENDING",
        "caller": "1001",
        "callee": "1002",
        "hasAudio": True,
        "hasVideo": False,
        "sdp": "",
    }
    sdp = (
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=call\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 31000 RTP/AVP 8 0 101\r\n"
    )
    number = 0
    while True:
        number += 1
        line = f"a=candidate:{number} 1 udp {2130706431 - number} 127.0.0.1 {31000 + 2 * number} typ host\r\n"
        fields["sdp"] = sdp + line
        if len(_encoded(fields)) > size - len("a=x:\r\n") - 2:
            break
        sdp += line
    fields["sdp"] = sdp + "a=x:\r\n"
    missing = size - len(_encoded(fields))
    fields["sdp"] = sdp + f"a=x:{'x' * missing}\r\n"
    return _encoded(fields)


def raw_request(body: bytes, host: str) -> bytes:
    """The bytes of a hook as the media server sends it, marks and all."""
    head = (
        "POST /rest/my_api/OnCallEvent HTTP/1.1\r\n"
        f"Host: {host}\r\n"
        "Accept: application/json\r\n"
        "Content-Type: application/json;charset=UTF-8\r\n"
        "User-Agent: Java/1.8.0_111\r\n"
        "Connection: keep-alive\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Requests:
    """Makes hooks of a file with marks."""

    def __init__(self, file: Path, run: int, apps: int) -> None:
        self._before_app, _, rest = file.read_bytes().partition(APP_MARK)
        self._before_call, mark, self._after_call = rest.partition(CALL_MARK)
        assert mark, f"{file} has no marks"
        self._run = run
        self._apps = apps

    def __getitem__(self, number: int) -> bytes:
        app = b"%05d" % (number * STRIDE % self._apps)
        call = b"%06d-%09d" % (self._run, number)
        return b"".join((self._before_app, app, self._before_call, call, self._after_call))


def _encoded(fields: dict[str, object]) -> bytes:
    return json.dumps(fields, indent=1).encode()
