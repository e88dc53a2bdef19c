"""Micro-benchmarks, one file per station of a request: parse, respond. Run by pytest-benchmark, apart from tests/."""
