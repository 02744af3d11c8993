"""HTTP/1.1 to the backends: pooled connections, one deadline, strict framing, behind httpx's interface."""

from gateway.http.client.answer_parser import Answer
from gateway.http.client.errors import (
    AnswerTimedOut,
    BadAnswer,
    ConnectFailed,
    ConnectionLost,
    ConnectTimedOut,
    ExchangeError,
    QueueTimedOut,
)
from gateway.http.client.pool import Pool, RequestOptions
from gateway.http.client.resolver import Resolver
from gateway.http.client.transport import Transport, TransportSettings

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
    "RequestOptions",
    "Resolver",
    "Transport",
    "TransportSettings",
]
