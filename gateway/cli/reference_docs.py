"""Generates the tables in the documents from the code, so that they always agree with it.

``python -m gateway.cli.reference_docs FILE…`` writes them into the files, between
``<!-- begin: NAME -->`` and ``<!-- end -->``; ``<!-- begin: keys PLACE -->`` begins the keys of the configuration's
section at that place.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from gateway import __version__
from gateway.config import Key, Section, loads, reference_sections
from gateway.model.reasons import REASON_TEXTS, cause_detail
from gateway.model.verdicts import (
    Cause,
    Failure,
    Fallback,
    ProxyError,
    Reason,
    Ruling,
    Verdict,
    backend_allow,
    backend_reject,
    fallback_ruling,
)
from gateway.proxy.refusals import REFUSALS
from gateway.server.signals import FAULTS, IGNORED_BY_DEFAULT, MEANINGS, WORKER_MEANINGS, Meaning, signal_name
from gateway.telemetry.metrics import Metrics

_section = re.compile(r"(<!-- begin: ([a-z-]+)(?: (\S+))? -->\n).*?(<!-- end -->)", re.DOTALL)

_SIGNALS: Final[Mapping[Meaning, str]] = {
    Meaning.DRAIN: "finishes the hooks in flight, for up to `server.drain_timeout`, and exits with status 0; a second "
    "one exits immediately",
    Meaning.END: "exits immediately: hooks in flight get their `fallback`",
    Meaning.RELOAD: "reloads the configuration",
}


def outcome_table() -> str:
    """The verdict table in short, for README.md."""
    rows = [
        ("`200` with one JSON object; to an event: any `2xx`", *_outcome(backend_allow(b"{}"))),
        ("`403`", *_outcome(backend_reject())),
    ]
    for cause in Cause:
        ruling = fallback_ruling(Failure(cause, ProxyError.HTTP_PROTOCOL_ERROR, ""), Fallback(), b"{}")
        rows.append((REASON_TEXTS[Reason(cause.value)].short, *_outcome(ruling)))
    return _markdown(("the backend's answer", "`reason`", "the media server receives"), rows)


def verdict_table() -> str:
    """What a backend did, and what the media server gets: from the functions that decide it."""
    rows = [
        ("`200` with one JSON object", *_outcome(backend_allow(b"{}")), "–"),
        ("any `2xx` to an event, with any body (`event_answers: any`)", *_outcome(backend_allow(b"{}")), "–"),
        ("`403`: final, never retried, not a failure", *_outcome(backend_reject()), "–"),
    ]
    allow_alone = loads("defaults: {fallback: allow}\n").config.defaults.fallback
    for cause in Cause:
        ruling = fallback_ruling(Failure(cause, ProxyError.HTTP_PROTOCOL_ERROR, ""), Fallback(), b"{}")
        covered = "yes" if allow_alone.verdict(cause) is Verdict.ALLOW else "no: name it"
        rows.append((cause_detail(cause), *_outcome(ruling), covered))
    return _markdown(("what the backend did", "`reason`", "answer", "allowed by `fallback: allow`?"), rows)


def refusal_table() -> str:
    """What is rejected before a backend is contacted."""
    rows = [
        (refusal.when, f"`{refusal.reason}`", f"`{status}`")
        for status, refusals in REFUSALS.items()
        for refusal in refusals
    ]
    return _markdown(("a request that is", "`reason`", "answer"), rows)


def cure_table() -> str:
    """What to do about each refusal."""
    rows = [
        (f"`{status}`", f"`{refusal.reason}`", refusal.when, refusal.cure)
        for status, refusals in REFUSALS.items()
        for refusal in refusals
    ]
    return _markdown(("answer", "`reason`", "the request is", "what to do"), rows)


def reason_table() -> str:
    """Every reason of a decision, in one line each."""
    rows = [(f"[`{reason}`](#{reason})", REASON_TEXTS[reason].detail) for reason in Reason]
    return _markdown(("`reason`", "what happened"), rows)


def metric_table() -> str:
    """Every metric with its kind, labels and meaning."""
    rows = [
        (f"`{family.name}`", family.kind, ", ".join(f"`{label}`" for label in family.labels) or "–", family.help_text)
        for family in Metrics(__version__).families
    ]
    return _markdown(("metric", "kind", "labels", "meaning"), rows)


def signal_table() -> str:
    """What each signal means to the gateway's process and to a worker."""
    rows = [
        *(
            (_signals_that(MEANINGS, it), _SIGNALS[it], _signals_that(WORKER_MEANINGS, it))
            for it in Meaning
            if it is not Meaning.IGNORE
        ),
        (_names(FAULTS), "a defect, or systemd's watchdog (`SIGABRT`): the process dies immediately", _names(FAULTS)),
        (_names(IGNORED_BY_DEFAULT), "nothing", _names(IGNORED_BY_DEFAULT)),
        ("all others, including real-time signals", "nothing; a line in the log names it", "all others"),
    ]
    return _markdown(("signal", "`gateway run`", "a worker does the same for"), rows)


def _signals_that(meanings: Mapping[int, Meaning], meaning: Meaning) -> str:
    return _names(number for number, its in meanings.items() if its is meaning)


def _names(numbers: Iterable[int]) -> str:
    return ", ".join(f"`{signal_name(number)}`" for number in sorted(numbers)) or "–"


def keys_at(place: str) -> str:
    """The keys of the configuration's section at that place. Raises KeyError."""
    everything = reference_sections()
    section = everything[place]
    blocks = [section.meaning]
    if len(section.places) > 1:
        others = ", ".join(f"`{other}`" for other in section.places[1:])
        blocks[0] += f" The same keys exist at {others}."
    above = "" if place == "top" else f"{place}."
    blocks += [_key(above, key, everything) for key in section.keys]
    return "\n\n".join(blocks)


def _key(above: str, key: Key, everything: Mapping[str, Section]) -> str:
    care = f" **Note:** {key.care}" if key.care else ""
    below = f"{above}{key.name}"
    inner = [it for it in everything.values() if any(_is_below(place, below) for place in it.places)]
    form = f"{key.form} ([its keys](#{_anchor(inner[0])}))" if inner else key.form
    is_sentence = key.default.startswith(("No default", "Required"))
    is_value = " " not in key.default and key.default != "none"
    default = key.default if is_sentence else f"Default: `{key.default}`" if is_value else f"Default: {key.default}"
    return f"#### `{above}{key.name}`\n\n*Value: {form}.* {default}.\n\n{key.meaning}{care}"


def _is_below(place: str, key: str) -> bool:
    """Whether a section is a key's value, or holds for each name or item of it."""
    rest = place.removeprefix(key)
    return rest != place and (rest in ("", "[]") or (rest[1:].isupper() and rest[1:].isalpha()))


def _anchor(section: Section) -> str:
    """The anchor of its first key's heading, as GitHub names it."""
    return re.sub(r"[^\w-]", "", f"{section.places[0]}.{section.keys[0].name}".lower())


SECTIONS: Final[Mapping[str, Callable[[], str]]] = {
    "outcomes": outcome_table,
    "verdicts": verdict_table,
    "refusals": refusal_table,
    "cures": cure_table,
    "reasons": reason_table,
    "metrics": metric_table,
    "signals": signal_table,
}


def regenerate(text: str) -> str:
    """The document with its generated sections replaced. Raises KeyError for an unknown section."""

    def generate(match: re.Match[str]) -> str:
        begin, name, place, end = match.groups()
        return f"{begin}{SECTIONS[name]() if place is None else keys_at(place)}\n{end}"

    return _section.sub(generate, text)


def _outcome(ruling: Ruling) -> tuple[str, str]:
    return f"`{ruling.reason}`", f"**{ruling.verdict}**, `{ruling.status}`"


def _markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Write the sections into the files named on the command line."""
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(regenerate(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
