"""llmux measured side by side with what one would take instead; see bench/README.md. Linux only.

Run by `make bench`, or `python -m bench.gateways` in the repository. Nothing here is imported by llmux.
"""
