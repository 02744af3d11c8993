"""What no general proxy knows, for a terminal: refusals that stop nothing, repairs, candidates, shares, rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from rich.text import Text

from gateway.cli.render import Json, milliseconds, plain, rate

_DIFFERING: Final = ("verdict_differs", "body_differs")
_ENFORCE: Final = "set rest_client_config: enforce"
_OVERWRITE: Final = f"{_ENFORCE}, with restPolicy OVERWRITE and these under restOverwrite for this method"
_WAIT: Final = "until its sessions connect again"
_MEND: Final = "mend its answers to connect that cannot be read"
_MOST_LINES: Final = 30
_MOST_CUT: Final = 40
"""Lines shown of what was cut away."""


def remarks(call: Json) -> Text:
    """What few calls have, for the end of their line."""
    parts = [
        Text(f"{name}={plain(call[name])}")
        for name in (
            "rule",
            "repaired",
            "client_config",
            "failed_over_from",
            "changed_fields",
            "excluded",
            "substituted",
        )
        if call.get(name) is not None and (name, call[name]) != ("client_config", "ok")
    ]
    if call["ineffective"]:
        parts.append(Text("the media server ignores this refusal", style="bold red"))
    if call["ignored_fields"] is not None:
        parts.append(Text(f"the media server ignores {plain(call['ignored_fields'])}", style="bold red"))
    shadow = call["shadow"]
    if shadow is not None and shadow["outcome"] != "match":
        parts.append(Text(f"{plain(shadow['upstream'])}:{plain(shadow['outcome'])}", style="magenta"))
    return Text("  ").join(parts)


def story(call: Json) -> Iterator[tuple[str, str]]:
    """The same in full, each with its name."""
    if call["rule"] is not None:
        words = "decided, no backend was asked" if call["source"] == "rule" else "met"
        yield "rule", f"{plain(call['rule'])} {words}"
    if call["failed_over_from"] is not None:
        yield "instead of", f"{plain(call['failed_over_from'])}, which failed: {plain(call['failover_cause'])}"
    if call["client_config"] is not None:
        yield "connect", f"its answer's restClientConfig: {plain(call['client_config'])}"
    if call["excluded"] is not None:
        yield "excluded", f"{plain(call['excluded'])}: its restExclude leaves out what the gateway needs"
    if call["changed_fields"] is not None:
        yield "changed", f"{plain(call['changed_fields'])}: by the fallback"
    if call["ignored_fields"] is not None:
        yield "ignored", f"the media server does not take {plain(call['ignored_fields'])}; {_OVERWRITE}"
    if call["ineffective"]:
        yield "ignored", f"the media server ignores this refusal; {_ENFORCE}, with FAIL for this method"
    if call["repaired"] is not None:
        yield "repaired", f"{plain(call['repaired'])}; what was cut away:"
        for line in call["cut"].splitlines()[:_MOST_CUT]:
            yield "", plain(line)
    if call.get("substituted") is not None:
        yield "answered", f"{plain(call['substituted'])}: an event is delivered so too; the hook's own body went out"
    if call["shadow"] is not None:
        yield from _candidate(call["shadow"])


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
    """One line of what goes on now; None where there is nothing of it."""
    total = insights["total"]
    parts = [
        (f"{rate(total['ineffective']['per_second'])} refusals/s stop nothing", total["ineffective"], "bold red"),
        (
            f"{rate(total['ineffective_changes']['per_second'])} changed answers/s ignored",
            total["ineffective_changes"],
            "bold red",
        ),
        (f"{rate(total['repaired']['per_second'])} answers/s repaired", total["repaired"], "yellow"),
        (f"{rate(total['failovers']['per_second'])} failed over/s", total["failovers"], "yellow"),
        (f"{rate(total['rate_limited']['per_second'])} past a rate limit/s", total["rate_limited"], "yellow"),
        (f"{rate(total['differing']['per_second'])} seen otherwise by a candidate/s", total["differing"], "magenta"),
        (
            f"{rate(insights['recorded']['dropped']['per_second'])} not recorded/s",
            insights["recorded"]["dropped"],
            "yellow",
        ),
    ]
    shown = [Text(words, style=style) for words, figure, style in parts if figure["per_second"]]
    return Text(" · ").join(shown) if shown else None


def notes(insights: Json) -> list[Text]:
    """Every line that an operator may want to know."""
    lines = [
        Text.assemble((f"{plain(app['app'])}: ", "bold"), (words, style))
        for app in insights["apps"]
        for words, style in _of_app(app)
    ]
    lines += [Text(words, style=style) for words, style in _of_recording(insights["recorded"])]
    if len(lines) > _MOST_LINES:
        more = Text(f"and {len(lines) - _MOST_LINES} more such lines; --json has them all", style="dim")
        return [*lines[:_MOST_LINES], more]
    return lines


def _remedy(config: Json, refused: Iterable[str]) -> str:
    """What makes refusals of these methods count, by what the configuration in force already does about them."""
    enforced = config["mode"] == "enforce"
    steps = [] if enforced else [_ENFORCE]
    if unnamed := sorted(set(refused).difference(config.get("methods", refused))):
        steps.append(f"name {', '.join(map(plain, unnamed))} with restOnError: FAIL under rest_client_config.methods")
    if enforced and config["outcomes"].get("unreadable"):
        steps.append(_MEND)
    return " and ".join(steps) or _WAIT


def _of_app(app: Json) -> Iterable[tuple[str, str]]:
    name = plain(app["app"])
    ineffective, config = app["ineffective"], app["client_config"]
    outcomes = config["outcomes"]
    remedy = _remedy(config, ineffective["methods"])
    if ineffective["total"]:
        yield f"refusals that stop nothing: {_figure(ineffective)} ({_counts(ineffective['methods'])}); {remedy}", "red"
    elif outcomes.get("missing") or outcomes.get("unreadable"):
        words = f"answers to connect: {_counts(outcomes)}; refusals there will stop nothing"
        yield f"{words}; {remedy}", "yellow"
    changes = app["ineffective_changes"]
    if changes["total"]:
        yield (
            f"changed answers that are ignored: {_figure(changes)} ({_counts(changes['methods'])}); {_OVERWRITE}",
            "red",
        )
    if excluded := app["excluded"]["fields"]:
        words = f"restExclude in answers to connect leaves out what the gateway needs: {_counts(excluded)}"
        yield words, "red"
    if app["repaired"]["total"]:
        kinds = _counts(app["repaired"]["kinds"])
        yield f"answers repaired: {_figure(app['repaired'])} ({kinds}); gateway calls --app {name} --repaired", "yellow"
    for failover in app["failovers"]:
        style = "red" if failover["per_second"] else ""
        causes = _counts(failover["causes"])
        yield f"{plain(failover['upstream'])} gave no verdict: {_figure(failover)} put elsewhere ({causes})", style
    if app["rate_limited"]["total"]:
        yield f"past the rate limit: {_figure(app['rate_limited'])}", "yellow"
    for shadow in app["shadow"]:
        yield _agreement(name, shadow)
    if app["split"]:
        yield f"shares: {', '.join(map(_share, app['split']))}", ""
    for rule in app["rules"]:
        yield f"rule {plain(rule['rule'])}: met {_figure(rule)} ({_counts(rule['verdicts'])})", ""


def _agreement(app: str, shadow: Json) -> tuple[str, str]:
    rest = {outcome: count for outcome, count in shadow["outcomes"].items() if outcome != "match"}
    words = (
        f"candidate {plain(shadow['upstream'])} agrees in {_percent(shadow['agreement'])} of {shadow['compared']} hooks"
    )
    if rest:
        words += f" ({_counts(rest)})"
    if any(shadow["outcomes"].get(outcome) for outcome in _DIFFERING):
        return f"{words}; gateway calls --app {app} --shadow differs", "magenta"
    return words, ""


def _share(share: Json) -> str:
    measured = share["share_of_total"] if share["share"] is None else share["share"]
    weight = "" if share["weight"] is None else f" (weight {share['weight']})"
    return f"{plain(share['upstream'])} {_percent(measured)}{weight}"


def _of_recording(recorded: Json) -> Iterable[tuple[str, str]]:
    written, dropped = recorded["written"], recorded["dropped"]
    if recorded["path"] is not None or written["total"] or dropped["total"]:
        where = "off now" if recorded["path"] is None else f"to {plain(recorded['path'])}"
        style = "red" if dropped["per_second"] else ""
        yield f"recording {where}: written {_figure(written)}; dropped {_figure(dropped)}", style


def _figure(figure: Json) -> str:
    return f"{rate(figure['per_second'])}/s, {figure['total']} since the start"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{plain(name).replace('_', ' ')} {count}" for name, count in counts.items())


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share * 100:.1f} %"
