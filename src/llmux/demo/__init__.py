"""``llmux demo``: two small real models take turns behind one endpoint, with real hooks, on a CPU.

May import all of llmux but the command line. Nothing else imports it. It never needs the network: the weights come
from installed packages.
"""

from __future__ import annotations

from llmux.demo.options import DemoOptions, run_demo

__all__ = ["DemoOptions", "run_demo"]
