"""Malformed and ambiguous messages as bytes, each with what must become of it, and why.

Data only. `requests.py` has what clients may send, `responses.py` what backends may. `tests/wire/test_corpus.py` feeds
requests to the reader however they are cut; `tests/gateway/test_corpus.py` sends all of them through a real gateway,
and a second, strict parser reads what comes out at the other end.
"""
