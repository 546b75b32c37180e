"""Millstream: messaging on the Redis or Valkey that you already run.

Work queues and topics that do not lose messages, in one typed library, sync and async.
"""

from __future__ import annotations

from importlib.metadata import version as _version

from millstream.aio.client import AsyncClient
from millstream.aio.delivery import Delivery
from millstream.aio.feed import Feed
from millstream.aio.request import Request
from millstream.aio.results import Handle
from millstream.aio.transaction import Transaction
from millstream.declare import Queue
from millstream.endpoint import Endpoint
from millstream.errors import (
    BrokerError,
    DeliveryError,
    LeaseLost,
    MillstreamError,
    NoResponders,
    NoResult,
    NotConfirmed,
    NotConnected,
    QueueFull,
    Reject,
    RemoteError,
    ResponderLost,
    RetryLater,
    ServerRefused,
    SlowListener,
    TimedOut,
    Undecodable,
    UnsupportedServer,
    UsageError,
)
from millstream.message import (
    Answer,
    ConsumerStats,
    DeadLetter,
    Heard,
    InFlight,
    Message,
    Missed,
    QueueStats,
    Receipt,
    Schedule,
    SubscriptionStats,
    TopicStats,
)
from millstream.policy import Backoff, Bound, Rate, Results, Retain, Retry
from millstream.security import Security
from millstream.sync.client import Client
from millstream.sync.delivery import SyncDelivery
from millstream.sync.feed import SyncFeed
from millstream.sync.request import SyncRequest
from millstream.sync.results import SyncHandle
from millstream.sync.transaction import SyncTransaction
from millstream.topic import EARLIEST, LATEST, Subscription, Topic
from millstream.worker import Worker

__all__ = [
    "EARLIEST",
    "LATEST",
    "Answer",
    "AsyncClient",
    "Backoff",
    "Bound",
    "BrokerError",
    "Client",
    "ConsumerStats",
    "DeadLetter",
    "Delivery",
    "DeliveryError",
    "Endpoint",
    "Feed",
    "Handle",
    "Heard",
    "InFlight",
    "LeaseLost",
    "Message",
    "MillstreamError",
    "Missed",
    "NoResponders",
    "NoResult",
    "NotConfirmed",
    "NotConnected",
    "Queue",
    "QueueFull",
    "QueueStats",
    "Rate",
    "Receipt",
    "Reject",
    "RemoteError",
    "Request",
    "ResponderLost",
    "Results",
    "Retain",
    "Retry",
    "RetryLater",
    "Schedule",
    "Security",
    "ServerRefused",
    "SlowListener",
    "Subscription",
    "SubscriptionStats",
    "SyncDelivery",
    "SyncFeed",
    "SyncHandle",
    "SyncRequest",
    "SyncTransaction",
    "TimedOut",
    "Topic",
    "TopicStats",
    "Transaction",
    "Undecodable",
    "UnsupportedServer",
    "UsageError",
    "Worker",
]

__version__ = _version("millstream")
