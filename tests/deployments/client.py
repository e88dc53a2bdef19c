"""process.load.Load as a program, so that it can run inside a network namespace: `python -m deployments.client PORT`.

Loads until its standard input ends, then prints what it counted as one line of JSON.
"""

from __future__ import annotations

import json
import sys

from process.load import Load, percentile


def main(port: int) -> None:
    load = Load(port)
    with load:
        print("loading", flush=True)
        sys.stdin.read()
    p99 = round(percentile(load.waits, 0.99) * 1000) if load.waits else None
    print(json.dumps({"counts": load.counts, "faults": load.faults[:10], "pids": load.pids, "p99_ms": p99}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
