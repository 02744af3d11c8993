"""What the store keeps, in words: the end of the summary that ``check`` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.cli.describe import describe_history, shorten_list
from gateway.config import Config, Loaded, display_secret
from gateway.config.sections.store import EXAMPLE
from gateway.policy.event_answers import EventAnswers

_EVENT: Final = "CallStatusEvent"
"""The event that bills are made of."""


def store_summary(loaded: Loaded) -> Iterator[str]:
    """What the store keeps; without one, what is missing."""
    config = loaded.config
    if config.store is not None:
        yield from ("", f"store: {display_secret(loaded.masked, 'store', 'url')}")
        if config.history is not None:
            yield f"  history       decisions are {describe_history(config.history)}"
            if config.history.key is None:
                yield "                nobody can be found by number: history.key is not set"
        yield from _answer_lines(config)
    elif any(app.static is None for app in config.apps.values()):
        yield ""
        yield "Nothing is kept: events that no backend takes are lost, and decisions are found for about a minute."
        yield f'  To keep both, write store: {{url: "{EXAMPLE}"}}, history: {{}}, and spool: on under defaults.'


def _answer_lines(config: Config) -> Iterator[str]:
    """Where an error page with status 200 counts as delivered, because nothing says otherwise."""
    apps = [name for name in config.apps if _takes_any_answer(config, name)]
    if apps:
        yield "  answers       any 2xx to an event means delivered, even an error page; if your backend answers events"
        yield f"                with JSON, event_answers: strict keeps such events too: {shorten_list(apps)}"


def _takes_any_answer(config: Config, app: str) -> bool:
    settings = config.settings(app, _EVENT)
    is_decided = config.setting_path(app, _EVENT, "event_answers")
    return settings.spool is not None and settings.event_answers is EventAnswers.ANY and not is_decided
