"""What the media server will make of an answer, and what sessions' answers to connect say of it.

A rejection or a changed field counts only where the session's answer to connect (restClientConfig) lets it: here
answers to connect are checked, completed and remembered, and the rulings that will have no effect are marked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.model.hooks import Hook, MethodType, method_type
from gateway.model.verdicts import ALLOW_STATUS, Ruling
from gateway.policy.rest_client_config import (
    ClientConfig,
    MethodSettings,
    SessionSettings,
    examine,
    excluded_fields,
    ignored_fields,
    ineffective,
    session_settings,
)
from gateway.proxy.context import HookContext
from gateway.proxy.sessions import session_key


class KnownSessions(Protocol):
    """What sessions' answers to connect set: of one gateway, or written behind to those of a fleet."""

    def remember(self, session: str | None, failing: frozenset[str], settings: SessionSettings | None = None) -> None:
        """Store what the session's answer to connect set; *failing*: the methods whose rejections stop the call."""

    def stops(self, session: str | None, method: str) -> bool | None:
        """Whether the media server stops a call when this method is rejected; None = not known."""

    def settings(self, session: str | None, method: str) -> MethodSettings | None:
        """What the session's answer to connect set for this method; None = not known."""


class Effects:
    """Annotates rulings by what is known of the *sessions*."""

    def __init__(self, sessions: KnownSessions) -> None:
        self._sessions = sessions

    def annotate(self, context: HookContext, ruling: Ruling) -> Ruling:
        """The ruling as it goes out; it changes where it rejects, changes the hook, or answers a connect."""
        route, hook = context.route, context.hook
        if route is None or hook is None or route.client_config is None:
            return ruling
        session = session_key(hook, context.method_name)
        if route.connects:
            if ruling.status != ALLOW_STATUS:
                return ruling
            return self._check_connect_answer(context, hook, session, ruling, route.client_config)
        kind = method_type(context.method_name, context.snapshot.config.hook_types)
        if ruling.status == ALLOW_STATUS:
            return self._note_ignored_fields(context.method_name, kind, session, ruling)
        return self._note_ineffective(context.method_name, kind, session, ruling)

    def _check_connect_answer(
        self, context: HookContext, hook: Hook, session: str | None, ruling: Ruling, wanted: ClientConfig
    ) -> Ruling:
        """Check and complete what the answer sets for the session, and remember it."""
        answer = examine(ruling.body, wanted)
        settings = session_settings(answer.body)
        self._sessions.remember(session, answer.failing, settings)
        excluded = excluded_fields(settings, _rules_reader(context, hook), context.snapshot.table.method_label)
        return ruling.with_body(answer.body).annotate(client_config=answer.outcome, excluded=excluded)

    def _note_ignored_fields(self, method: str, kind: MethodType, session: str | None, ruling: Ruling) -> Ruling:
        """Name the changed fields that the media server will not take."""
        changed = None if ruling.annotations is None else ruling.annotations.changed_fields
        if changed is None:
            return ruling
        ignored = ignored_fields(kind, self._sessions.settings(session, method), changed.split(","))
        return ruling.annotate(ignored_fields=",".join(ignored)) if ignored else ruling

    def _note_ineffective(self, method: str, kind: MethodType, session: str | None, ruling: Ruling) -> Ruling:
        """Mark a rejection that the media server will only log."""
        if not ineffective(kind, self._sessions.stops(session, method), method):
            return ruling
        return ruling.annotate(ineffective=True)


def _rules_reader(context: HookContext, hook: Hook) -> Callable[[str, str], bool]:
    """Says whether the app's rules read a field of a method's hooks: each method has the rules of its own route."""
    table, app_key = context.snapshot.table, hook.app_key

    def reads(field: str, method: str) -> bool:
        found = table.find(app_key, method)
        rules = None if found is None else found[1].rules
        return rules is not None and rules.reads(field, method)

    return reads
