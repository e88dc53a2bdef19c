"""What can be collected here: asgion needs Python 3.12."""

import sys

collect_ignore = [] if sys.version_info >= (3, 12) else ["test_asgion.py"]
