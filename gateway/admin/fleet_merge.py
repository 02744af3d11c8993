"""The answers of several gateways as one: activity and upstreams. Pure; the answers are JSON as the admin API gives it.

Counts and rates add up. Of times, the middle ones are the mean over the hooks of all, and the high ones are those of
the slowest gateway, because quantiles cannot be added. A version that is one apart may lack a field: it counts for
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

Json = Mapping[str, Any]

_RATES: Final = (
    "per_second", "allow", "reject", "error", "allowed_by_fallback", "rejected_by_fallback", "spooled",
)  # fmt: skip
_HOOKS: Final = (
    "in_flight", "per_second", "rejected_per_second", "allowed_by_fallback_per_second",
    "rejected_by_fallback_per_second",
)  # fmt: skip
_COUNTS: Final = ("in_flight", "queued", "connections", "max_connections", "ejections", "workers_ejected", "workers")
_TIMES: Final = ("usual_ms", "p50_ms", "p95_ms", "p99_ms")
_RANK: Final = {"up": 1, "partly": 2, "probing": 3, "ejected": 4, "ejected_by_operator": 5}
"""Of a target's states, from the best to the worst; 0: not known."""
_MAX_APPS: Final = 20


class Named(NamedTuple):
    """An answer, and whose it is."""

    replica: str
    content: Json


def merge_activity(answers: Sequence[Named], most: int) -> dict[str, Any]:
    """``GET /api/activity`` of all, with at most *most* apps."""
    contents = [answer.content for answer in answers]
    by_app: dict[str, list[Json]] = {}
    for content in contents:
        for app in content.get("apps", ()):
            by_app.setdefault(app["app"], []).append(app)
    apps = [{"app": name, "in_flight": _sum(parts, "in_flight"), **_tally(parts)} for name, parts in by_app.items()]
    apps.sort(key=lambda app: (-sum(app["reasons"].values()), -(app["per_second"] or 0.0), app["app"]))
    return {
        "time": max((content["time"] for content in contents if content.get("time")), default=None),
        "window_seconds": max((content.get("window_seconds", 0.0) for content in contents), default=0.0),
        "in_flight": _sum(contents, "in_flight"),
        "total": _tally([content["total"] for content in contents if content.get("total")]),
        "apps": apps[:most],
        "app_count": max([len(by_app), *(content.get("app_count", 0) for content in contents)]),
    }


def merge_hooks(hooks: Sequence[Json]) -> dict[str, Any]:
    """The ``hooks`` of ``GET /api/status`` of all."""
    return {name: _sum(hooks, name) for name in _HOOKS}


def merge_upstreams(answers: Sequence[Named]) -> dict[str, Any]:
    """``GET /api/upstreams`` of all: each target with the worst of its states, and where it is not up."""
    upstreams: dict[str, list[Named]] = {}
    for replica, content in answers:
        for upstream in content.get("upstreams", ()):
            upstreams.setdefault(upstream["name"], []).append(Named(replica, upstream))
    return {"upstreams": [_upstream(parts) for parts in upstreams.values()]}


def _upstream(parts: Sequence[Named]) -> dict[str, Any]:
    targets: dict[str, list[Named]] = {}
    for replica, upstream in parts:
        for target in upstream.get("targets", ()):
            targets.setdefault(target["target"], []).append(Named(replica, target))
    apps = dict.fromkeys(app for part in parts for app in part.content.get("apps", ()))
    return {
        **parts[0].content,
        "apps": list(apps)[:_MAX_APPS],
        "app_count": max(part.content.get("app_count", 0) for part in parts),
        "targets": [_target(views) for views in targets.values()],
    }


def _target(views: Sequence[Named]) -> dict[str, Any]:
    contents = [view.content for view in views]
    ranks = [_RANK.get(str(content.get("state")), 0) for content in contents]
    in_it = [content for content, rank in zip(contents, ranks, strict=True) if rank == max(ranks)]
    first = min(in_it, key=lambda content: (not content.get("reason"), content.get("since") or "~"))
    errors = [content["last_error"] for content in contents if content.get("last_error")]
    return {
        **first,
        "retry_in_seconds": min(_values(in_it, "retry_in_seconds"), default=None),
        "ejected_for": list(dict.fromkeys(app for each in contents for app in each.get("ejected_for", ())))[:_MAX_APPS],
        **{name: _sum(contents, name) for name in _COUNTS},
        **{name: max(_values(contents, name), default=None) for name in _TIMES},
        "last_error": max(errors, key=lambda error: str(error["time"]), default=None),
        "replicas": len(views),
        "not_up_at": [replica for replica, content in views if content.get("state") not in ("up", None)],
    }


def _tally(parts: Sequence[Json]) -> dict[str, Any]:
    reasons: dict[str, float] = {}
    for part in parts:
        for reason, rate in part.get("reasons", {}).items():
            reasons[reason] = reasons.get(reason, 0.0) + (rate or 0.0)
    return {
        **{name: _sum(parts, name) for name in _RATES},
        "reasons": {reason: round(rate, 3) for reason, rate in sorted(reasons.items(), key=lambda item: -item[1])},
        "p50_ms": _mean(parts),
        "p99_ms": max(_values(parts, "p99_ms"), default=None),
    }


def _mean(parts: Sequence[Json]) -> float | None:
    """The medians' mean over the hooks of all."""
    known = [(part["p50_ms"], part.get("per_second") or 0.0) for part in parts if part.get("p50_ms") is not None]
    hooks = sum(rate for _, rate in known)
    return round(sum(median * rate for median, rate in known) / hooks, 3) if hooks else None


def _sum(parts: Iterable[Json], name: str) -> Any:
    """The sum of what is known; None where nothing is."""
    values = _values(parts, name)
    return None if not values else round(sum(values), 3)


def _values(parts: Iterable[Json], name: str) -> list[Any]:
    return [part[name] for part in parts if part.get(name) is not None]
