"""A test backend that plays each fault of a backend, byte for byte, on real loopback sockets.

One server plays every case at once: the last path segment but one names the case, so an upstream whose URL is
``backend.url_of("reset_during_head")`` meets that fault with every hook. No HTTP library takes part: what a
case sends is what its script says. A script yields steps (bytes, a pause, an end); one that runs out leaves
the connection open for the next request.

The expectations hold for an app with a timeout of 1.2 s, a connect_timeout of 400 ms, fallback *reject* and
a largest answer of 1 MiB.
"""

from __future__ import annotations

from tests.support.faulty.answers import chunks, head, reply
from tests.support.faulty.backend import FaultyBackend, added_case, gated_case
from tests.support.faulty.bodies import bodies
from tests.support.faulty.cases import (
    BAD_ANSWER,
    BASE_PATH,
    CALLER_INPUT,
    CASES,
    DENIED,
    ERROR_STATUS,
    MAX_ANSWER,
    OK,
    TIMEOUT,
    UNREACHABLE,
    WRONG_ANSWER,
    Case,
    End,
    Expected,
    Pause,
    Recorded,
    Script,
    Step,
    Turn,
    right_answer,
)
from tests.support.faulty.certificates import Certificates, make_certificates, tls_backend
from tests.support.faulty.ends import later_hooks, silences_and_ends
from tests.support.faulty.faultless import answers
from tests.support.faulty.framing import codings, lengths, sizes
from tests.support.faulty.heads import heads
from tests.support.faulty.listeners import (
    closing_listener,
    full_backlog,
    hanging_listener,
    refused_port,
    resetting_listener,
)
from tests.support.faulty.statuses import denials, statuses

__all__ = [
    "BAD_ANSWER",
    "BASE_PATH",
    "CALLER_INPUT",
    "CASES",
    "DENIED",
    "ERROR_STATUS",
    "MAX_ANSWER",
    "OK",
    "TIMEOUT",
    "UNREACHABLE",
    "WRONG_ANSWER",
    "Case",
    "Certificates",
    "End",
    "Expected",
    "FaultyBackend",
    "Pause",
    "Recorded",
    "Script",
    "Step",
    "Turn",
    "added_case",
    "chunks",
    "closing_listener",
    "full_backlog",
    "gated_case",
    "hanging_listener",
    "head",
    "make_certificates",
    "refused_port",
    "reply",
    "resetting_listener",
    "right_answer",
    "tls_backend",
]

# The table of cases is filled here, in this order, before anybody can look a case up.
for _add_cases in (answers, silences_and_ends, sizes, lengths, codings, statuses, denials, bodies, heads, later_hooks):
    _add_cases()
