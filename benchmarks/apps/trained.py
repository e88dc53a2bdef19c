"""fastserve as it is trained: `python -m benchmarks.apps.trained` takes fastserve's options.

Called by ../train.py. A build that counts (FASTSERVE_PROFILE=make) writes what it counted at exit(3), which a worker that
has stopped does not wait for: it ends by _exit(2).
"""

import ctypes
import os
import sys

from fastserve.cli import main

os._exit = ctypes.CDLL(None).exit

if __name__ == "__main__":
    sys.exit(main())
