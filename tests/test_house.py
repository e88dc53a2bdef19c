"""The floors hold: imports only downwards, a core without Python, eight stations, a test for every C file.

ARCHITECTURE.md says it in prose; the tables here say it to the computer. Sources are read, never imported, so this also
holds for what is not built.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fastserve"
CSRC = ROOT / "csrc"

STATIONS = ("accept", "read", "parse", "exchange", "handle", "respond", "write", "end")
TOUR = ROOT / "docs" / "follow-one-request.md"

GROUND = {"_layout", "_version", "errors", "params", "types"}
"""Ground stones: they import nothing of ours, and anyone may import them."""

PROTOCOL_ORDER = (
    "core",
    "limits",
    "timers",
    "thread",
    "board",
    "lens",
    "wire",
    "driver",
    "forwarded",
    "channel",
    "headers",
    "request",
    "response",
    "exchange",
    "files",
    "hooks",
    "service",
    "websocket",
    "connection",
)
"""Inside floor 1: each module imports only modules named before it."""

ALLOWED: dict[str, set[str]] = {
    "protocol": {"protocol"},
    "routing": {"protocol"},
    "app": {"routing", "protocol"},
    "middleware": {"protocol"},
    "control": {"app", "telemetry", "protocol"},
    "interfaces": {"interfaces", "routing", "protocol"},
    "telemetry": {"telemetry", "protocol"},
    "process": {"process", "interfaces", "telemetry", "protocol"},
    "lens": {"lens", "process", "telemetry", "protocol"},
    "cli": {"lens", "process"},
    "testing": {"testing", "lens", "process"},
    "pytest_plugin": {"testing"},
    "__main__": {"cli"},
    "__init__": {"app", "routing", "protocol", "process"},
}
"""Room -> rooms it may import from, besides the ground stones. The same table stands in ARCHITECTURE.md."""

CIRCLE = ("protocol.service", "protocol.connection")
"""An import that goes up: Service.connect makes a Connection, and imports it when it is first called."""

BRIDGE = ("app", "interfaces.bridge")
"""The other: App.__call__ is for other people's servers, and imports the bridge when one of them calls."""


def sources(*suffixes: str) -> list[Path]:
    return sorted(path for suffix in suffixes for path in PACKAGE.rglob(f"*{suffix}"))


def c_files(*suffixes: str) -> list[Path]:
    return sorted(path for suffix in suffixes for path in CSRC.glob(f"*{suffix}"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    """ "protocol.request" for fastserve/protocol/request.pyx, "interfaces" for fastserve/interfaces/__init__.py."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return ".".join(parts)


def imported(path: Path) -> Iterator[str]:
    """Modules of ours that a file imports, without "fastserve."."""
    if path.suffix in (".py", ".pyi"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name(path)}:{node.lineno}: relative import"
                names = [node.module or ""]
            else:
                continue
            yield from (found.removeprefix("fastserve.") for found in names if found.startswith("fastserve."))
        if path == PACKAGE / "__init__.py":  # its table of lazy names
            yield from re.findall(r'"fastserve\.([a-z_.]+)"', path.read_text(encoding="utf-8"))
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        match = re.match(r"\s*(?:from\s+fastserve\.([\w.]+)\s+c?import\b|c?import\s+fastserve\.([\w.]+))", line)
        if match:
            yield match[1] or match[2]


def test_imports_go_downwards() -> None:
    wrong = []
    for path in sources(".py", ".pyi", ".pyx", ".pxd"):
        module = module_of(path)
        room = module.partition(".")[0]
        for target in imported(path):
            floor = target.partition(".")[0]
            if floor in GROUND or (module, target) in (CIRCLE, BRIDGE):
                continue
            if floor not in ALLOWED.get(room, set()):
                wrong.append(f"{name(path)} imports fastserve.{target}")
    assert not wrong, "\n".join(wrong)


def test_ground_stones_import_nothing_of_ours() -> None:
    wrong = [f"{stone}.py imports {found}" for stone in sorted(GROUND) for found in imported(PACKAGE / f"{stone}.py")]
    assert not wrong


def test_the_protocol_floor_has_an_order() -> None:
    files = sources(".pyx", ".pxd", ".pyi")
    on_floor = [path for path in files if path.parent.name == "protocol"]
    unknown = {path.stem for path in on_floor} - set(PROTOCOL_ORDER)
    assert not unknown, f"not in the order of floor 1: {sorted(unknown)}"
    wrong = []
    for path in on_floor:
        place = PROTOCOL_ORDER.index(path.stem)
        for target in imported(path):
            floor, _, stem = target.partition(".")
            if floor in GROUND or (module_of(path), target) == CIRCLE:
                continue
            assert floor == "protocol", f"{name(path)} imports {target}"
            if PROTOCOL_ORDER.index(stem) > place:
                wrong.append(f"{name(path)} imports {target}, which is above it")
    assert not wrong, "\n".join(wrong)


def test_the_one_circle_is_closed_late() -> None:
    """Service imports Connection inside a function: at the top of the file it could not be imported at all."""
    text = (PACKAGE / "protocol" / "service.pyx").read_text(encoding="utf-8")
    found = re.findall(r"^( *)from fastserve\.protocol\.connection import", text, re.MULTILINE)
    assert len(found) == 1 and found[0]


def test_the_bridge_is_imported_late() -> None:
    """Under our own server it is never needed, and app.py stays below interfaces/."""
    text = (PACKAGE / "app.py").read_text(encoding="utf-8")
    found = re.findall(r"^( *)from fastserve\.interfaces\.bridge import", text, re.MULTILINE)
    assert len(found) == 1 and found[0]


def test_architecture_has_the_same_table() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", text, re.MULTILINE))

    def written(room: str) -> str:
        return f"{room}/" if (PACKAGE / room).is_dir() else f"{room}.py"

    for room, rooms in ALLOWED.items():
        others = {written(other) for other in rooms - {room}}
        assert set(re.findall(r"`([^`]+)`", rows[written(room)])) == others, room


# ------------------------------------------------------------------------------------------------- ground floor


def test_the_core_is_freestanding() -> None:
    """No Python, no allocation, no stdio, no sockets, no clock: (pointer, length) in, offsets or bytes out."""
    wrong = []
    for path in c_files(".c", ".h"):
        text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for header in re.findall(r"#\s*include\s*[<\"]([^>\"]+)[>\"]", text):
            ours = (CSRC / header).exists()
            intrinsics = header in ("immintrin.h", "nmmintrin.h", "emmintrin.h", "arm_neon.h", "cpuid.h")
            if not (ours or intrinsics or header in ("stdbool.h", "stddef.h", "stdint.h", "string.h")):
                wrong.append(f"{name(path)} includes <{header}>")
        pattern = r"\b(malloc|calloc|realloc|free|printf|fopen|socket|clock_gettime|gettimeofday|time|Py\w+)\s*\("
        wrong += [f"{name(path)} calls {called}" for called in re.findall(pattern, text)]
    assert not wrong, "\n".join(wrong)


def test_only_core_names_the_headers_of_the_core() -> None:
    headers = {path.name for path in c_files(".h")}
    for path in sources(".pyx", ".pxd"):
        if path == PACKAGE / "protocol" / "core.pxd":
            continue
        named = set(re.findall(r'cdef extern from "([^"]+)"', path.read_text(encoding="utf-8")))
        assert not named & headers, f"{name(path)} names {named & headers}; only protocol/core.pxd does"


def test_the_core_keeps_no_state() -> None:
    """File-level variables are constant; the one exception is the table of scanning kernels in use."""
    for path in c_files(".c"):
        text = re.sub(r"/\*.*?\*/", " ", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        variables = re.findall(
            r"^(?:static )?(?!.*\bconst\b)[a-z_][\w ]*\b(\w+)(?:\[[^\]]*\])? *=[^=]", text, re.MULTILINE
        )
        assert not variables, f"{name(path)}: {variables}"


def test_every_c_file_has_a_test() -> None:
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests" / "c").glob("test_*.c")}
    kernels = {path.stem for path in CSRC.glob("scan_*.c")}  # test_scan runs each of them
    missing = sorted({path.stem for path in c_files(".c")} - tests - kernels - {"status"})
    assert not missing, f"without tests/c/test_NAME.c: {missing}"
    assert "scan" in tests and "status" in (ROOT / "tests" / "c" / "test_response.c").read_text(encoding="utf-8")


# ----------------------------------------------------------------------------------------------------- stations


def stations_in(text: str) -> list[tuple[int, str]]:
    """(number, word) of every "station 3: parse" and "stations 6, 7: respond, write", in order."""
    found: list[tuple[int, str]] = []
    for numbers, words in re.findall(r"\bstations? ([1-8](?:, [1-8])*): (\w+(?:, (?!station)\w+)*)", text):
        found += zip(map(int, numbers.split(", ")), words.split(", "), strict=False)
    return found


def test_all_stations_are_in_the_sources() -> None:
    found: dict[int, set[str]] = {number: set() for number in range(1, 9)}
    for path in [*sources(".py", ".pyx", ".pxd"), *c_files(".c", ".h")]:
        for number, word in stations_in(path.read_text(encoding="utf-8")):
            found[number].add(word)
    missing = [f"{n}: {word}" for n, word in enumerate(STATIONS, 1) if word not in found[n]]
    assert not missing, f"no source says `# station {missing}`"


def test_stations_have_one_word_each() -> None:
    wrong = []
    for path in [*sources(".py", ".pyx", ".pxd"), *c_files(".c", ".h"), ROOT / "examples" / "tiny_server.py"]:
        for number, word in stations_in(path.read_text(encoding="utf-8")):
            if word != STATIONS[number - 1]:
                wrong.append(f"{name(path)}: station {number} is called {word!r}, not {STATIONS[number - 1]!r}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", ["fastserve/protocol/connection.pyx"])
def test_a_connection_tells_the_tour_in_order(path: str) -> None:
    numbers = [number for number, _ in stations_in((ROOT / path).read_text(encoding="utf-8"))]
    assert numbers == sorted(numbers) == list(range(1, 9))


def test_the_tour_and_the_dolls_house_have_all_stations() -> None:
    tiny = stations_in((ROOT / "examples" / "tiny_server.py").read_text(encoding="utf-8"))
    assert sorted(tiny) == list(enumerate(STATIONS, 1))
    headings = re.findall(r"^## ([1-8]) · (\w+)$", TOUR.read_text(encoding="utf-8"), re.MULTILINE)
    assert [(int(number), word) for number, word in headings] == list(enumerate(STATIONS, 1))


# ------------------------------------------------------------------------------------------------ opening lines


def opening(path: Path) -> str:
    """The comment or docstring a file begins with."""
    text = path.read_text(encoding="utf-8")
    match = re.match(r'\s*(/\*.*?\*/|""".*?"""|(?:#[^\n]*\n)+)', text, re.DOTALL)
    return match[1] if match else ""


def test_every_source_file_opens_with_its_room() -> None:
    wrong = []
    for path in [*sources(".py", ".pyx", ".pxd", ".pyi"), *c_files(".c", ".h", ".py")]:
        if not path.read_text(encoding="utf-8").strip():
            continue
        text = opening(path)
        if not text:
            wrong.append(f"{name(path)} opens with code")
        elif path.suffix in (".c", ".h", ".pyx") and not re.search(r"\bRoom:.*\bCalled\b", text, re.DOTALL):
            wrong.append(f"{name(path)} does not say `Room:` and `Called`")
    assert not wrong, "\n".join(wrong)


def test_floors_are_named_in_python_files() -> None:
    """A Python file of some size says which floor it is on and who calls it."""
    wrong = []
    for path in sources(".py"):
        if len(path.read_text(encoding="utf-8").splitlines()) < 55:
            continue
        if not re.search(
            r"Room: (?:floor [1-3]|ground stone|the top|side wing).*\b(?:Called|imported) by", opening(path), re.DOTALL
        ):
            wrong.append(name(path))
    assert not wrong, f"no `Room: floor N. Called by:` in {wrong}"
