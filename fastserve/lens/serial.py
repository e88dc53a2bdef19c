"""serial: are these awaits, one after the other, independent of each other? For FS010, by the source itself.

Room: floor 3. Called by: findings.py. Calls: nothing of ours.

A trace shows that three awaits followed each other; whether they had to is in the source. Only what can be seen to be
harmless is called independent: consecutive assignments of one block, each `name = await call(...)`, none of which uses what
another has made, and no two of which speak to the same object, for a session or connection does one thing at a time.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

__all__ = ["independent"]

ONE_AT_A_TIME = re.compile(r"^_?(?:db|session|conn\w*|cur|cursor|tx\w*|trans\w*|uow|websocket|ws|request|lock)$")
"""Arguments that two calls should not use at once."""


def independent(file: str, lines: Sequence[int], *, shared_is_safe: bool = False) -> bool:
    """Could the awaits on these lines of `file` run at once? False if that cannot be seen, or the file cannot be read.

    `shared_is_safe`: what they call may be the same object, as an HTTP client may.
    """
    tree = _parsed(file)
    if tree is None or len(lines) < 2:
        return False
    block = _block(tree, lines)
    if block is None:
        return False
    made: set[str] = set()
    roots: set[str] = set()
    shared: set[str] = set()
    for statement in block:
        call = _awaited(statement)
        if call is None:
            return False
        names = {node.id for node in ast.walk(call) if isinstance(node, ast.Name)}
        if names & made or any(isinstance(node, ast.Await) for node in ast.walk(call)):
            return False
        root = _root(call.func)
        arguments = names - ({root} if root else set())
        alone = {name for name in arguments if ONE_AT_A_TIME.match(name)}
        if not shared_is_safe and ((root and root in roots) or alone & shared):
            return False
        if root and isinstance(call.func, ast.Attribute):
            roots.add(root)
        shared |= alone
        made |= _targets(statement)
    return True


@lru_cache(maxsize=64)
def _parsed(file: str) -> ast.Module | None:
    try:
        return ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return None


def _block(tree: ast.Module, lines: Sequence[int]) -> list[ast.stmt] | None:
    """The consecutive statements that these lines lie in, one each; None if there are no such."""
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if not isinstance(block, list) or not block or not isinstance(block[0], ast.stmt):
                continue
            found = [
                [at for at, one in enumerate(block) if one.lineno <= line <= (one.end_lineno or one.lineno)]
                for line in lines
            ]
            if not all(found):
                continue
            places = [at[0] for at in found]
            if places == list(range(places[0], places[0] + len(places))) and not any(
                hasattr(block[at], "body") for at in places
            ):
                return [block[at] for at in places]
    return None


def _awaited(statement: ast.stmt) -> ast.Call | None:
    """`name = await call(...)`: the call."""
    if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(statement.value, ast.Await):
        call = statement.value.value
        return call if isinstance(call, ast.Call) else None
    return None


def _root(function: ast.expr) -> str:
    """ "client" of client.api.get, "" if it begins with no name."""
    while isinstance(function, ast.Attribute):
        function = function.value
    return function.id if isinstance(function, ast.Name) else ""


def _targets(statement: ast.stmt) -> set[str]:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return {
        node.id for target in targets if target is not None for node in ast.walk(target) if isinstance(node, ast.Name)
    }
