from __future__ import annotations

import pytest

from llmux.demo.models import missing_modules


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = missing_modules()
    if missing:
        reason = f"the [demo] extra is not installed: {', '.join(missing)}"
        for item in items:
            if item.get_closest_marker("demo"):
                item.add_marker(pytest.mark.skip(reason=reason))
