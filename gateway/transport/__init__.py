"""HTTP/1.1 to the backends: pooled connections, one deadline, strict framing, behind httpx's interface."""

from gateway.transport.client import Transport, TransportSettings, whole
from gateway.transport.faults import (
    AnswerTimedOut,
    BadAnswer,
    ConnectFailed,
    ConnectionLost,
    ConnectTimedOut,
    ExchangeError,
    QueueTimedOut,
    failure_of,
)
from gateway.transport.resolver import Resolver

__all__ = [
    "AnswerTimedOut",
    "BadAnswer",
    "ConnectFailed",
    "ConnectTimedOut",
    "ConnectionLost",
    "ExchangeError",
    "QueueTimedOut",
    "Resolver",
    "Transport",
    "TransportSettings",
    "failure_of",
    "whole",
]
