"""A command line for bjoern, which has none: `python -m benchmarks.apps.serve_bjoern --host H --port P MODULE:APP`.

Called by ../servers.py, as the commands of the other peers are.
"""

from __future__ import annotations

import argparse
import importlib
from importlib.metadata import version
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--version", action="version", version=f"bjoern {version('bjoern')}")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("app")
    options = parser.parse_args()
    module, _, name = options.app.partition(":")
    bjoern: Any = importlib.import_module("bjoern")
    bjoern.run(getattr(importlib.import_module(module), name), options.host, options.port)


if __name__ == "__main__":
    main()
