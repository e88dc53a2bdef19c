"""Fail if a test was skipped that .ci/skips.txt does not name. Called by .ci/run.

A line of skips.txt: `classname::name  reason`; `#` begins a comment. The name may end in `*`.
"""

import fnmatch
import sys
import xml.etree.ElementTree as ET


def main(report: str, allowed_file: str) -> int:
    with open(allowed_file, encoding="utf-8") as file:
        lines = [line.split("#")[0].strip() for line in file]
    allowed = [line.split(None, 1)[0] for line in lines if line]
    skipped = [
        f"{case.get('classname')}::{case.get('name')}: {case.find('skipped').get('message')}"
        for case in ET.parse(report).iter("testcase")
        if case.find("skipped") is not None
    ]
    unknown = [line for line in skipped if not any(fnmatch.fnmatch(line.split(": ")[0], name) for name in allowed)]
    for line in unknown:
        print(f"skipped without leave: {line}", file=sys.stderr)
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
