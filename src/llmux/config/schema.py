"""The JSON schema of the configuration file, made from the models, so that editors check and complete it.

Put ``# yaml-language-server: $schema=<path or URL of the schema>`` on top of a YAML file to use it.
"""

from __future__ import annotations

from typing import Any

from llmux.config.config import Config


def config_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the file; every field has a description with its unit and default."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Config.model_json_schema()
