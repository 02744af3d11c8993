"""A made-up day: sessions with their hooks, and the rules by which a backend decides them.

Every number is one that no telephone has: Ofcom's and the Bundesnetzagentur's numbers for drama, and 555-01xx of North
America. The same seed makes the same day, but for what tells one sending of it from another: a hook that came again
byte for byte would be a duplicate.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

SEED: Final = 20261123

BLOCKED_CALLERS: Final = frozenset(f"+4477009001{number:02}" for number in (3, 17, 42, 66, 91))
PREMIUM: Final = "+449098790"
CLOSED_BRANCH: Final = "+4416329604"
"""A hundred numbers that are refused; the new backend's first version knows ten of them."""
CLOSED_BRANCH_AS_PORTED: Final = "+44163296040"
UNLISTED: Final = "+120255501"
"""PHP has no entry for these in its directory: it prints a warning and lets the call pass."""
NUISANCE: Final = "+14155550142"
"""No backend refuses it; a rule of the gateway's will."""

NOTIFY: Final = {"restExclude": "", "restOnError": "LOG", "restPolicy": "NOTIFY", "restOverwrite": ""}
_SET: Final = ("ConnectionStatusEvent", "OnCallEvent", "CallStatusEvent")
CLIENT_CONFIG: Final[Mapping[str, Mapping[str, str]]] = dict.fromkeys(_SET, NOTIFY)
"""The old backend's: a refusal of OnCallEvent is only logged."""
PORTED_CLIENT_CONFIG: Final = {**CLIENT_CONFIG, "OnCallEvent": {**NOTIFY, "restPolicy": "OVERWRITE"}}
"""As the new backend's first version has it: its answers overwrite what the media server knows of the call."""


def is_refused(caller: str, callee: str, closed_branch: str = CLOSED_BRANCH) -> bool:
    """What both backends are to decide of an incoming call."""
    return caller in BLOCKED_CALLERS or callee.startswith((PREMIUM, closed_branch))


def is_disputed(caller: str, callee: str) -> bool:
    """Whether the new backend's first version decides otherwise."""
    return is_refused(caller, callee) != is_refused(caller, callee, CLOSED_BRANCH_AS_PORTED)


@dataclass(frozen=True, slots=True)
class Hook:
    """One hook and what a backend should say."""

    session: str
    method: str
    fields: Mapping[str, Any]
    body: bytes
    refused: bool
    disputed: bool

    @property
    def unlisted(self) -> bool:
        """Whether PHP prints a warning before its answer."""
        return self.method == "OnCallEvent" and str(self.fields["callee"]).startswith(UNLISTED)


Session = Sequence[Hook]
"""In the order in which they are sent."""


def day(hooks: int, sending: int, *, callees: Sequence[str] = (), callers: Sequence[str] = ()) -> list[Session]:
    """Sessions that have so many hooks together, the last one cut short.

    *sending* tells this sending of the day from others. With *callees* or *callers*, every fourth call is to or from
    one of them.
    """
    dice = random.Random(SEED)  # the same people call in every sending
    sessions: list[Session] = []
    left = hooks
    while left > 0:
        session = list(_session(dice, sending, len(sessions), callees, callers))[:left]
        sessions.append(session)
        left -= len(session)
    return sessions


def _session(
    dice: random.Random, sending: int, number: int, callees: Sequence[str], callers: Sequence[str]
) -> Iterator[Hook]:
    session = f"/198.51.100.{1 + number % 250}:{20000 + sending * 1000 + number // 250}/192.0.2.10:8443"
    common = {"nodeId": "Qb2xW0mT7cLrYd5sKfUe1nHp@192.0.2.10", "appKey": "defaultApp", "sessionId": session}
    user = f"+447700900{dice.randrange(1000):03}"
    yield _hook(
        "connect", {**common, "login": user, "useRawRtp": False, "sipRegisterRequired": True, "status": "PENDING"}
    )
    for call in range(dice.choice((1, 2, 2, 3))):
        caller, callee = _caller(dice), _callee(dice)
        if dice.randrange(4) == 0:
            caller = dice.choice(callers) if callers else caller
            callee = dice.choice(callees) if callees else callee
        fields = {
            **common,
            "callId": f"{sending}-{number}-{call}-{dice.randrange(16**12):012x}@192.0.2.20",
            "incoming": True,
            "status": "PENDING",
            "caller": caller,
            "callee": callee,
            "hasAudio": True,
            "hasVideo": False,
            "mediaProvider": "WebRTC",
            "isMsrp": False,
            "holdForTransfer": False,
        }
        yield _hook("OnCallEvent", {**fields, "sdp": _SDP})
        for status in ("ESTABLISHED", "FINISH")[: dice.choice((1, 2, 2))]:
            yield _hook("CallStatusEvent", {**fields, "status": status})


def _hook(method: str, fields: Mapping[str, Any]) -> Hook:
    caller, callee = str(fields.get("caller", "")), str(fields.get("callee", ""))
    incoming = method == "OnCallEvent"
    return Hook(
        fields["sessionId"],
        method,
        fields,
        json.dumps(fields, indent=2).encode(),  # as the media server writes it: over several lines
        refused=incoming and is_refused(caller, callee),
        disputed=incoming and is_disputed(caller, callee),
    )


def _caller(dice: random.Random) -> str:
    kind = dice.randrange(100)
    if kind < 6:
        return dice.choice(sorted(BLOCKED_CALLERS))
    if kind < 40:
        return f"+493023125{dice.randrange(1000):03}"
    # The last hundred of the drama mobiles: none of them is blocked.
    return f"+4477009009{dice.randrange(100):02}"


def _callee(dice: random.Random) -> str:
    kind = dice.randrange(100)
    if kind < 5:
        return f"{PREMIUM}{dice.randrange(1000):03}"
    if kind < 12:
        return f"{CLOSED_BRANCH}{dice.randrange(100):02}"
    return f"+442079460{dice.randrange(1000):03}"


_SDP: Final = "".join(
    [
        "v=0\r\no=- 1 1 IN IP4 192.0.2.20\r\ns=call\r\nc=IN IP4 192.0.2.20\r\n",
        "t=0 0\r\nm=audio 31000 RTP/AVP 8 0 101\r\n",
        *(f"a=candidate:{n} 1 udp {2130706431 - n} 192.0.2.20 {31000 + 2 * n} typ host\r\n" for n in range(48)),
    ]
)
"""Makes a hook of an incoming call about as long as a real one: 3.6 kB."""
