"""python -m fastserve: the same as the command fastserve."""

from __future__ import annotations

from fastserve.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
