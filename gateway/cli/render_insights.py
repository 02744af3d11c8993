"""Insights for a terminal: ignored rejections, repaired answers, candidates, traffic split, rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from rich.text import Text

from gateway.cli.render import Json, milliseconds, plain, rate
from gateway.model.text import plural

_DIFFERING: Final = ("verdict_differs", "body_differs")
_ENFORCE: Final = "set rest_client_config: enforce"
_OVERWRITE: Final = f"{_ENFORCE}, with restPolicy OVERWRITE and these fields in restOverwrite for this method"
_WAIT: Final = "wait until its sessions reconnect"
_FIX: Final = "fix its unreadable connect answers"
_MOST_LINES: Final = 30
_MOST_CUT: Final = 40
"""Lines shown of what was removed from an answer."""


def annotation_text(decision: Json) -> Text:
    """What only few decisions have, for the end of their line."""
    parts = [
        Text(f"{name}={plain(decision[name])}")
        for name in (
            "rule",
            "repaired",
            "client_config",
            "failed_over_from",
            "changed_fields",
            "excluded",
            "substituted",
        )
        if decision.get(name) is not None and (name, decision[name]) != ("client_config", "ok")
    ]
    if decision["ineffective"]:
        parts.append(Text("the media server ignores this rejection", style="bold red"))
    if decision["ignored_fields"] is not None:
        parts.append(Text(f"the media server ignores {plain(decision['ignored_fields'])}", style="bold red"))
    shadow = decision["shadow"]
    if shadow is not None and shadow["outcome"] != "match":
        parts.append(Text(f"{plain(shadow['upstream'])}:{plain(shadow['outcome'])}", style="magenta"))
    return Text("  ").join(parts)


def details(decision: Json) -> Iterator[tuple[str, str]]:
    """The same in full: names and texts."""
    if decision["rule"] is not None:
        words = "decided; no backend was contacted" if decision["source"] == "rule" else "matched"
        yield "rule", f"{plain(decision['rule'])} {words}"
    if decision["failed_over_from"] is not None:
        cause = plain(decision["failover_cause"])
        yield "failover", f"from {plain(decision['failed_over_from'])}, which failed: {cause}"
    if decision["client_config"] is not None:
        yield "connect", f"restClientConfig of its answer: {plain(decision['client_config'])}"
    if decision["excluded"] is not None:
        yield "excluded", f"{plain(decision['excluded'])}: its restExclude removes fields that the gateway needs"
    if decision["changed_fields"] is not None:
        yield "changed", f"{plain(decision['changed_fields'])}: changed by the fallback"
    if decision["ignored_fields"] is not None:
        yield "ignored", f"the media server ignores {plain(decision['ignored_fields'])}; {_OVERWRITE}"
    if decision["ineffective"]:
        yield "ignored", f"the media server ignores this rejection; {_ENFORCE}, with FAIL for this method"
    if decision["repaired"] is not None:
        yield "repaired", f"{plain(decision['repaired'])}; removed text:"
        for line in decision["cut"].splitlines()[:_MOST_CUT]:
            yield "", plain(line)
    if decision.get("substituted") is not None:
        words = "this counts as delivered for an event; the hook's own body was sent"
        yield "answered", f"{plain(decision['substituted'])}: {words}"
    if decision["shadow"] is not None:
        yield from _candidate(decision["shadow"])


def _candidate(shadow: Json) -> Iterator[tuple[str, str]]:
    error = f": {plain(shadow['error'])}" if shadow["error"] else ""
    status = "" if shadow["status"] is None else f" with {plain(shadow['status'])}"
    outcome = plain(shadow["outcome"]).replace("_", " ")
    yield (
        "candidate",
        f"{plain(shadow['upstream'])}{status} after {milliseconds(shadow['duration_ms'])}: {outcome}{error}",
    )
    for each in shadow["differences"]:
        ours, theirs = ("nothing" if each[name] is None else plain(each[name]) for name in ("ours", "theirs"))
        yield "", f"{plain(each['path'])}: {ours} -> {theirs}"


def at_a_glance(insights: Json) -> Text | None:
    """One line about the last seconds; None if there is nothing to report."""
    total = insights["total"]
    parts = [
        (f"{rate(total['ineffective']['per_second'])} rejections/s ignored", total["ineffective"], "bold red"),
        (
            f"{rate(total['ineffective_changes']['per_second'])} changed answers/s ignored",
            total["ineffective_changes"],
            "bold red",
        ),
        (f"{rate(total['repaired']['per_second'])} answers/s repaired", total["repaired"], "yellow"),
        (f"{rate(total['failovers']['per_second'])} failovers/s", total["failovers"], "yellow"),
        (f"{rate(total['rate_limited']['per_second'])} rate-limited/s", total["rate_limited"], "yellow"),
        (f"{rate(total['differing']['per_second'])} candidate differences/s", total["differing"], "magenta"),
        (
            f"{rate(insights['recorded']['dropped']['per_second'])} not recorded/s",
            insights["recorded"]["dropped"],
            "yellow",
        ),
    ]
    shown = [Text(words, style=style) for words, figure, style in parts if figure["per_second"]]
    return Text(" · ").join(shown) if shown else None


def notes(insights: Json) -> list[Text]:
    """Every insight, one per line."""
    lines = [
        Text.assemble((f"{plain(app['app'])}: ", "bold"), (words, style))
        for app in insights["apps"]
        for words, style in _app_notes(app)
    ]
    lines += [Text(words, style=style) for words, style in _recording_notes(insights["recorded"])]
    if len(lines) > _MOST_LINES:
        more = Text(f"and {len(lines) - _MOST_LINES} more lines; --json shows all", style="dim")
        return [*lines[:_MOST_LINES], more]
    return lines


def _remedy(config: Json, rejected: Iterable[str]) -> str:
    """How to make rejections of these methods stop calls, given the current configuration."""
    enforced = config["mode"] == "enforce"
    steps = [] if enforced else [_ENFORCE]
    if unnamed := sorted(set(rejected).difference(config.get("methods", rejected))):
        steps.append(f"add {', '.join(map(plain, unnamed))} with restOnError: FAIL to rest_client_config.methods")
    if enforced and config["outcomes"].get("unreadable"):
        steps.append(_FIX)
    return " and ".join(steps) or _WAIT


def _app_notes(app: Json) -> Iterable[tuple[str, str]]:
    name = plain(app["app"])
    ineffective, config = app["ineffective"], app["client_config"]
    outcomes = config["outcomes"]
    remedy = _remedy(config, ineffective["methods"])
    if ineffective["total"]:
        words = f"rejections the media server ignores: {_figure(ineffective)} ({_counts(ineffective['methods'])})"
        yield f"{words}; {remedy}", "red"
    elif outcomes.get("missing") or outcomes.get("unreadable"):
        lacking = plural(outcomes.get("missing", 0) + outcomes.get("unreadable", 0), "connect answer")
        words = f"{lacking} without restOnError=FAIL: rejections in those sessions will not stop calls"
        yield f"{words}; {remedy}", "yellow"
    changes = app["ineffective_changes"]
    if changes["total"]:
        words = f"changed answers the media server ignores: {_figure(changes)} ({_counts(changes['methods'])})"
        yield f"{words}; {_OVERWRITE}", "red"
    if excluded := app["excluded"]["fields"]:
        words = f"restExclude in connect answers removes fields that the gateway needs: {_counts(excluded)}"
        yield words, "red"
    if app["repaired"]["total"]:
        words = f"repaired answers: {_figure(app['repaired'])} ({_counts(app['repaired']['kinds'])})"
        yield f"{words}; gateway decisions --app {name} --repaired", "yellow"
    for failover in app["failovers"]:
        yield _failover(failover), "red" if failover["per_second"] else ""
    if app["rate_limited"]["total"]:
        yield f"over the rate limit: {_figure(app['rate_limited'])}", "yellow"
    for shadow in app["shadow"]:
        yield _agreement(name, shadow)
    if app["split"]:
        yield f"traffic split (actual): {', '.join(map(_share, app['split']))}", ""
    for rule in app["rules"]:
        matches = plural(rule["total"], "match", "matches")
        yield f"rule {plain(rule['rule'])}: {rate(rule['per_second'])}/s, {matches} since start", ""


def _failover(failover: Json) -> str:
    if failover["causes"].keys() <= {"unreachable"}:
        problem = "is down" if failover["per_second"] else "was down"
    else:
        problem = f"{'gives' if failover['per_second'] else 'gave'} no verdict ({_counts(failover['causes'])})"
    hooks = f"{rate(failover['per_second'])} hooks/s ({failover['total']:,} total)"
    return f"{plain(failover['upstream'])} {problem}: {hooks} failed over"


def _agreement(app: str, shadow: Json) -> tuple[str, str]:
    rest = {outcome: count for outcome, count in shadow["outcomes"].items() if outcome != "match"}
    compared = plural(shadow["compared"], "hook")
    words = f"candidate {plain(shadow['upstream'])} agrees in {_percent(shadow['agreement'])} of {compared}"
    if rest:
        words += f" ({_counts(rest)})"
    if any(shadow["outcomes"].get(outcome) for outcome in _DIFFERING):
        return f"{words}; gateway decisions --app {app} --shadow differs", "magenta"
    return words, ""


def _share(share: Json) -> str:
    measured = share["share_of_total"] if share["share"] is None else share["share"]
    weight = "" if share["weight"] is None else f" (weight {share['weight']})"
    return f"{plain(share['upstream'])} {_percent(measured)}{weight}"


def _recording_notes(recorded: Json) -> Iterable[tuple[str, str]]:
    written, dropped = recorded["written"], recorded["dropped"]
    if recorded["path"] is not None or written["total"] or dropped["total"]:
        where = "now off" if recorded["path"] is None else f"to {plain(recorded['path'])}"
        style = "red" if dropped["per_second"] else ""
        yield f"recording {where}: written {_figure(written)}; dropped {_figure(dropped)}", style


def _figure(figure: Json) -> str:
    return f"{rate(figure['per_second'])}/s, {figure['total']} since start"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{plain(name).replace('_', ' ')} {count}" for name, count in counts.items())


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share * 100:.1f} %"
