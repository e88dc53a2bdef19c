"""The benchmarks' room: fastserve beside its peers, under one load, on one machine.

Who comes here: `python -m benchmarks run` and `python -m benchmarks report` (see __main__), and
tests/test_benchmarks.py. Nothing of the server imports from here.

The way through the room: cases -> run (servers, load, cpu) -> report.
"""
