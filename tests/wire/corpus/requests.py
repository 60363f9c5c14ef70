"""All that clients may send."""

from __future__ import annotations

from tests.wire.corpus import request_bodies, request_heads
from tests.wire.corpus.cases import Case

CASES: list[Case] = [*request_heads.CASES, *request_bodies.CASES]
