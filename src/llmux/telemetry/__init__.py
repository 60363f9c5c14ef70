"""Metrics and structured log events of one application. Told what happened, never asks, never decides."""

from __future__ import annotations

from llmux.telemetry.telemetry import CONTENT_TYPE, Telemetry

__all__ = ["CONTENT_TYPE", "Telemetry"]
