"""What the tests of the documents share."""

from __future__ import annotations

import pytest

from tests.ports import free_port


@pytest.fixture
def free_ports() -> tuple[int, int]:
    """Two ports that nobody listens on."""
    return free_port(), free_port()
