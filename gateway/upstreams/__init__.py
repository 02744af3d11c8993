"""Sends hooks to backends: chooses targets, makes attempts within one deadline, judges answers."""

from gateway.upstreams.answers import Judge
from gateway.upstreams.outgoing import Outgoing
from gateway.upstreams.registry import Contexts, Targets
from gateway.upstreams.target import Target
from gateway.upstreams.upstream import Outcome, Upstream

__all__ = ["Contexts", "Judge", "Outcome", "Outgoing", "Target", "Targets", "Upstream"]
