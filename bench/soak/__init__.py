"""Hours of traffic and trouble, and a strict judge: the real process, real hooks, real backends. See `__main__.py`."""
