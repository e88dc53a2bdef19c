"""The flat layout's trap: in a clone the folder fastserve/ hides the installed package.

Room: ground stone. Called by: fastserve/__init__.py, first of all. Calls: nothing of ours.
When something is started with a clone's root first on sys.path (`python -m fastserve`, pytest, a spawned process),
Python finds the sources, which lack the compiled modules after a plain `pip install .`. Then the installed package is
used.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES

__all__ = ["ensure_compiled", "is_compiled"]


def ensure_compiled(package_file: str) -> None:
    """Leave the package alone if its compiled modules lie beside `package_file`; else point its __path__ to an
    installed fastserve elsewhere on sys.path; else raise ImportError with one line that says what to do.

    Call it from the package's __init__ before any other import of ours: modules already imported are not replaced.
    """
    folder = os.path.dirname(os.path.abspath(package_file))
    if is_compiled(folder):
        return
    name = os.path.basename(folder)
    for entry in sys.path:
        if not isinstance(entry, str):
            continue
        root = os.path.abspath(entry or os.curdir)
        candidate = os.path.join(root, name)
        if _same(candidate, folder) or not is_compiled(candidate):
            continue
        if os.path.exists(os.path.join(root, "setup.py")):
            continue  # another clone, built in place: not what is installed
        sys.modules[name].__path__[:] = [candidate]
        return
    raise ImportError(
        f"{folder} is the source folder and its compiled modules are not built: "
        "run `pip install -e .` in this folder first".replace("this folder", os.path.dirname(folder)),
        name=name,
        path=folder,
    )


def is_compiled(folder: str) -> bool:
    """Has this package folder compiled modules that this very Python can load?"""
    try:
        files = os.listdir(os.path.join(folder, "protocol"))
    except OSError:
        return False
    return any(file == file.partition(".")[0] + suffix for file in files for suffix in EXTENSION_SUFFIXES)


def _same(a: str, b: str) -> bool:
    try:
        return os.path.samefile(a, b)
    except OSError:
        return False
