"""HTTP/1.1 to the backends: pooled connections, one deadline, strict framing, behind httpx's interface."""

from gateway.transport.client import Transport, TransportSettings
from gateway.transport.connection import Answer
from gateway.transport.faults import (
    AnswerTimedOut,
    BadAnswer,
    ConnectFailed,
    ConnectionLost,
    ConnectTimedOut,
    ExchangeError,
    QueueTimedOut,
)
from gateway.transport.pool import Pool, Terms
from gateway.transport.resolver import Resolver

__all__ = [
    "Answer",
    "AnswerTimedOut",
    "BadAnswer",
    "ConnectFailed",
    "ConnectTimedOut",
    "ConnectionLost",
    "ExchangeError",
    "Pool",
    "QueueTimedOut",
    "Resolver",
    "Terms",
    "Transport",
    "TransportSettings",
]
