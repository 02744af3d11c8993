"""Asking backends: targets are chosen, attempts made inside one deadline, answers judged."""

from gateway.upstreams.answers import Judge
from gateway.upstreams.outgoing import Outgoing
from gateway.upstreams.registry import Contexts, Targets
from gateway.upstreams.target import Target
from gateway.upstreams.upstream import Outcome, Upstream

__all__ = ["Contexts", "Judge", "Outcome", "Outgoing", "Target", "Targets", "Upstream"]
