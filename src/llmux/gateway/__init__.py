"""The data plane: asyncio protocols that parse requests, find their model, hold them, and relay them to backends.

Imports the pure layer, `llmux.upstream` and the seams of `llmux.ports`; never the driver, the control plane, or a web
framework.
"""

from llmux.gateway.gateway import Gateway
from llmux.gateway.observer import CLIENT_GONE, Limit, Observer
from llmux.gateway.settings import Backend, GatewaySettings, Timeouts

__all__ = ["CLIENT_GONE", "Backend", "Gateway", "GatewaySettings", "Limit", "Observer", "Timeouts"]
