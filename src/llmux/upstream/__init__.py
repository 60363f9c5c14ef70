"""Connections to backends, pooled.

Imports the pure layer only (errors, addresses, wire) and asyncio. Knows one backend at a time and nothing of models,
clients or schedules.
"""

from llmux.upstream.canary import Canary, CanaryRun
from llmux.upstream.connection import Receiver, Sender, UpstreamConnection
from llmux.upstream.pool import Connector, Dial, Pool

__all__ = ["Canary", "CanaryRun", "Connector", "Dial", "Pool", "Receiver", "Sender", "UpstreamConnection"]
