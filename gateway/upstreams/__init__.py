"""Asking backends: targets are chosen, attempts made inside one deadline, answers judged."""

from gateway.upstreams.answers import judge, judge_failure
from gateway.upstreams.registry import Contexts, Targets
from gateway.upstreams.target import Outgoing, Target
from gateway.upstreams.upstream import Outcome, Upstream

__all__ = ["Contexts", "Outcome", "Outgoing", "Target", "Targets", "Upstream", "judge", "judge_failure"]
