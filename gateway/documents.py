"""The parts of the documentation that are made from the code, so that they cannot say anything else than it does.

``python -m gateway.documents FILE…`` writes them into the files, between ``<!-- begin: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from gateway.config import loads
from gateway.requests import REFUSALS
from gateway.verdicts import (
    Cause,
    Failure,
    Fallback,
    ProxyError,
    Ruling,
    Verdict,
    allowed_by_backend,
    by_fallback,
    denied_by_backend,
)

_section = re.compile(r"(<!-- begin: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

_CAUSES: Final[Mapping[Cause, str]] = {
    Cause.TIMEOUT: "gave no complete answer within the budget",
    Cause.UNREACHABLE: "refused, reset or closed the connection without an answer; its name was not resolved, TLS "
    "failed; or every target is ejected",
    Cause.OVERLOAD: "was not asked: `max_in_flight` or `max_connections` was reached and the queue is too long",
    Cause.BAD_ANSWER: "`200` with anything but one JSON object (a PHP notice before it, a byte-order mark, HTML, "
    "nothing); an answer cut short, malformed or too large",
    Cause.ERROR_STATUS: "any other status: redirects, `204`, `500` …",
}


def verdict_table() -> str:
    """What a backend did, and what the media server gets: worked out by the functions that decide it."""
    rows = [
        ("`200` with one JSON object", *_told(allowed_by_backend(b"{}")), "–"),
        ("`403`: final, never retried, no failure", *_told(denied_by_backend()), "–"),
    ]
    allow_alone = loads("defaults: {fallback: allow}\n").config.defaults.fallback
    for cause, words in _CAUSES.items():
        ruling = by_fallback(Failure(cause, ProxyError.HTTP_PROTOCOL_ERROR, ""), Fallback(), b"{}")
        covered = "yes" if allow_alone.verdict(cause) is Verdict.ALLOW else "no: name it"
        rows.append((words, *_told(ruling), covered))
    return _markdown(("what the backend did", "`reason`", "answer", "let pass by `fallback: allow`"), rows)


def refusal_table() -> str:
    """What is refused before a backend is asked."""
    rows = [
        (refusal.when, f"`{refusal.reason}`", f"`{status}`")
        for status, refusals in REFUSALS.items()
        for refusal in refusals
    ]
    return _markdown(("a request that is", "`reason`", "answer"), rows)


SECTIONS: Final[Mapping[str, Callable[[], str]]] = {"verdicts": verdict_table, "refusals": refusal_table}


def written(text: str) -> str:
    """A document with its generated sections made anew."""
    return _section.sub(lambda match: f"{match[1]}{SECTIONS[match[2]]()}\n{match[3]}", text)


def _told(ruling: Ruling) -> tuple[str, str]:
    return f"`{ruling.reason}`", f"**{ruling.verdict}**, `{ruling.status}`"


def _markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Write the sections into the files named on the command line."""
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(written(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
