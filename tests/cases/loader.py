"""Reads the case book: Markdown chapters of request bytes and the events they must cause.

Room:    tests/cases/; plain standard library. Parses, checks, and hands out; runs nothing.
Called:  by pytest (`load_cases()`), by the C tests (`loader.py --c`), by the fuzzers (`loader.py --seeds DIR`).
Rules:   the format is described in README.md beside this file.

Theory of operation. A chapter is a list of sections, one per `##` heading: prose, then fenced blocks. Each section becomes
one `Case` per sample: the input itself, or one per line of its `variants` table, and the accepted neighbour. Whatever is
wrong with the book is raised as `BookError` with file and line; a book that loads is a book that can be trusted.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

BOOK = Path(__file__).resolve().parent
CSRC = BOOK.parent.parent / "csrc"

# Files beside the chapters that have a format of their own.
NOT_CHAPTERS = frozenset({"README.md", "flaws.md", "responses.md", "websocket-frames.md"})

BLOCKS = ("limits", "variants", "http", "events", "http accepted", "events accepted")
UNLIMITED = 2**64 - 1
SECTION_OF_RFC = re.compile(r"RFC \d{4} §\d+(\.\d+)*|RFC \d{4} Appendix [A-Z]")


class BookError(Exception):
    """The book breaks its own rules; the message begins with file:line."""

    def __init__(self, path: Path, line: int, what: str) -> None:
        super().__init__(f"{path.name}:{line}: {what}")


@dataclass(frozen=True, slots=True)
class Case:
    """One input and the events it must cause.

    A section of the book yields several of these: its input (or one per variant) and its accepted neighbour.
    """

    name: str  # unique in the book: "heading", "heading [variant 2]" or "heading [accepted]"
    heading: str  # the section's name
    file: str  # chapter, e.g. "chunked.md"
    line: int  # of the heading, or of the variant's row
    prose: str
    data: bytes
    events: tuple[str, ...]
    accepted: bool  # is this the accepted neighbour?
    limits: dict[str, int] = field(default_factory=dict)  # only those that differ from the defaults of base.h

    @property
    def error(self) -> str | None:
        """The name of the error this input is refused with, or None."""
        if self.events and self.events[-1].startswith("error "):
            return self.events[-1].split()[1]
        return None

    @property
    def slug(self) -> str:
        """The name as a file name."""
        stem = f"{self.file.removesuffix('.md')}-{self.name}"
        return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")


@dataclass(slots=True)
class _Block:
    line: int  # of the opening fence
    lines: list[str]


@dataclass(slots=True)
class _Section:
    path: Path
    line: int
    heading: str
    prose: str
    blocks: dict[str, _Block]


# --- what the C core says -------------------------------------------------------------------------------------------------


def error_table(csrc: Path = CSRC) -> dict[str, int]:
    """Names (lower case) and statuses of csrc/errors.h."""
    text = (csrc / "errors.h").read_text(encoding="utf-8")
    rows = re.findall(r"^\s*X\((\w+),\s*(\d+),", text, re.MULTILINE)
    if not rows:
        raise BookError(csrc / "errors.h", 1, "no rows of the error table found")
    return {name.lower(): int(status) for name, status in rows}


def default_limits(csrc: Path = CSRC) -> dict[str, int]:
    """Names and defaults of fs_limits in csrc/base.h, in the order of FS_LIMITS_DEFAULT."""
    text = (csrc / "base.h").read_text(encoding="utf-8")
    macro = re.search(r"#define FS_LIMITS_DEFAULT((?:.*\\\n)*.*\n)", text)
    rows = re.findall(r"\.(\w+)\s*=\s*(\w+)", macro.group(1)) if macro else []
    if not rows:
        raise BookError(csrc / "base.h", 1, "FS_LIMITS_DEFAULT not found")
    return {name: UNLIMITED if value == "FS_UNLIMITED" else int(value, 0) for name, value in rows}


# --- bytes ----------------------------------------------------------------------------------------------------------------

_SIMPLE_ESCAPES = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "\\": b"\\"}


def expand(text: str, variant: bytes | None = None) -> bytes:
    """The bytes that `text` stands for: escapes, ${N*text}, {{v}}; a newline is CRLF, a backslash before it joins lines.

    Raises ValueError with the reason.
    """
    out = bytearray()
    at = 0
    while at < len(text):
        char = text[at]
        if char == "\n":
            out += b"\r\n"
            at += 1
        elif char == "\\":
            piece, at = _escape(text, at + 1)
            out += piece
        elif text.startswith("{{v}}", at):
            if variant is None:
                raise ValueError("{{v}} without a variants block")
            out += variant
            at += 5
        elif text.startswith("${", at):
            piece, at = _repetition(text, at, variant)
            out += piece
        elif " " <= char <= "~":
            out += char.encode("ascii")
            at += 1
        else:
            raise ValueError(f"{char!r} must be written as an escape")
    return bytes(out)


def _escape(text: str, at: int) -> tuple[bytes, int]:
    """The bytes of the escape whose backslash is before `at`, and where it ends."""
    char = text[at : at + 1]
    if char in ("", "\n"):
        return b"", at + 1
    if char in _SIMPLE_ESCAPES:
        return _SIMPLE_ESCAPES[char], at + 1
    digits = text[at + 1 : at + 3]
    if char == "x" and re.fullmatch("[0-9a-fA-F]{2}", digits):
        return bytes([int(digits, 16)]), at + 3
    raise ValueError(f"unknown escape \\{char}{digits}")


def _repetition(text: str, at: int, variant: bytes | None) -> tuple[bytes, int]:
    """The bytes of the ${N*text} at `at`, and where it ends."""
    start = re.compile(r"\$\{(\d+)\*").match(text, at)
    if start is None:
        raise ValueError("malformed repetition: ${N*text}")
    depth, end = 1, start.end()
    while depth:
        if end >= len(text):
            raise ValueError("repetition without its closing brace")
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    return int(start.group(1)) * expand(text[start.end() : end - 1], variant), end


# --- reading --------------------------------------------------------------------------------------------------------------


def chapters(book: Path = BOOK) -> list[Path]:
    """The chapters of the book, by name."""
    return sorted(path for path in book.glob("*.md") if path.name not in NOT_CHAPTERS)


def _sections(path: Path) -> Iterator[_Section]:
    """Split a chapter at its headings and fences."""
    section: _Section | None = None
    prose: list[str] = []
    block: _Block | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if block is not None:
            if line == "```":
                block = None
            elif line.startswith("```"):
                raise BookError(path, number, "fence inside a block")
            elif line != line.rstrip():
                raise BookError(path, number, r"white space at the end of a line: write \x20 or \t")
            else:
                block.lines.append(line)
        elif line.startswith("## "):
            if section is not None:
                section.prose = " ".join(prose)
                yield section
            section = _Section(path, number, line[3:].strip(), "", {})
            prose = []
        elif line.startswith("```"):
            kind = line[3:]
            if section is None:
                raise BookError(path, number, "block before the first heading")
            if kind not in BLOCKS:
                raise BookError(path, number, f"unknown kind of block {kind!r}")
            if kind in section.blocks:
                raise BookError(path, number, f"second {kind!r} block")
            block = section.blocks[kind] = _Block(number, [])
        elif line.strip():
            if section is not None and section.blocks:
                raise BookError(path, number, "prose after the blocks")
            prose.append(line.strip())
    if block is not None:
        raise BookError(path, block.line, "block without its end")
    if section is not None:
        section.prose = " ".join(prose)
        yield section


def _input(section: _Section, kind: str, variant: bytes | None) -> bytes:
    block = section.blocks[kind]
    try:
        return expand("".join(line + "\n" for line in block.lines), variant)
    except ValueError as error:
        raise BookError(section.path, block.line, str(error)) from None


def _events(section: _Section, kind: str, text: str | None = None) -> tuple[str, ...]:
    """The events of a block: {{e}} and ${N*text} filled in, everything else literal."""
    block = section.blocks[kind]
    events: list[str] = []
    for number, line in enumerate(block.lines, block.line + 1):
        if "{{e}}" in line:
            if text is None:
                raise BookError(section.path, number, "{{e}} without a variants block")
            line = line.replace("{{e}}", text)
        events.append(re.sub(r"\$\{(\d+)\*([^{}]*)\}", lambda match: int(match[1]) * match[2], line))
    return tuple(events)


def _limits(section: _Section, known: dict[str, int]) -> dict[str, int]:
    block = section.blocks.get("limits")
    limits: dict[str, int] = {}
    for number, line in enumerate(block.lines, block.line + 1) if block else ():
        match = re.fullmatch(r"(\w+) = (\d+)", line)
        if match is None:
            raise BookError(section.path, number, "a limit is written `name = number`")
        if match.group(1) not in known:
            raise BookError(section.path, number, f"no limit {match.group(1)!r} in base.h")
        limits[match.group(1)] = int(match.group(2))
    return limits


def _variants(section: _Section) -> Iterator[tuple[int, bytes, str]]:
    """Line number, bytes and text of each row of the variants table."""
    block = section.blocks["variants"]
    if not block.lines:
        raise BookError(section.path, block.line, "empty variants table")
    seen: set[bytes] = set()
    for number, line in enumerate(block.lines, block.line + 1):
        # The last bar divides, so that the bytes may hold one; no bytes at all: the row begins with the bar.
        source, bar, text = (" " + line).rpartition(" | ")
        if not bar or not text.strip():
            raise BookError(section.path, number, "a variant is written `BYTES | TEXT`")
        try:
            data = expand(source.strip())
        except ValueError as error:
            raise BookError(section.path, number, str(error)) from None
        if data in seen:
            raise BookError(section.path, number, "the same variant twice")
        seen.add(data)
        yield number, data, text.strip()


def _cases(section: _Section, errors: dict[str, int], limits: dict[str, int]) -> Iterator[Case]:
    """The section's cases, checked."""

    def wrong(line: int, what: str) -> BookError:
        return BookError(section.path, line, what)

    for kind in ("http", "events"):
        if kind not in section.blocks:
            raise wrong(section.line, f"no {kind!r} block")
    if ("http accepted" in section.blocks) != ("events accepted" in section.blocks):
        raise wrong(section.line, "'http accepted' and 'events accepted' come together")
    if SECTION_OF_RFC.search(section.prose) is None:
        raise wrong(section.line, "the prose names no section of an RFC (RFC 9112 §7.1)")

    template = Case(
        name=section.heading, heading=section.heading, file=section.path.name, line=section.line, prose=section.prose,
        data=b"", events=(), accepted=False, limits=_limits(section, limits),
    )  # fmt: skip
    block = section.blocks["events"]
    found: list[Case] = []
    if "variants" in section.blocks:
        if not any("{{v}}" in line for line in section.blocks["http"].lines):
            raise wrong(section.line, "variants, but no {{v}} in the http block")
        for count, (number, data, text) in enumerate(_variants(section), 1):
            events = _events(section, "events", text)
            name = f"{section.heading} [variant {count}]"
            check_events(events, errors, section.path, number)
            found.append(replace(template, name=name, line=number, data=_input(section, "http", data), events=events))
    else:
        events = _events(section, "events")
        check_events(events, errors, section.path, block.line)
        found.append(replace(template, data=_input(section, "http", None), events=events))

    if "http accepted" in section.blocks:
        block = section.blocks["events accepted"]
        events = _events(section, "events accepted")
        check_events(events, errors, section.path, block.line)
        if any(line.startswith("error ") for line in events):
            raise wrong(block.line, "the accepted neighbour is refused")
        if not events:
            raise wrong(block.line, "the accepted neighbour causes no event")
        data = _input(section, "http accepted", None)
        if any(case.data == data and case.events != events for case in found):
            raise wrong(block.line, "the accepted neighbour is the case itself")
        found.append(replace(template, name=f"{section.heading} [accepted]", data=data, events=events, accepted=True))
    elif any(case.error for case in found):
        raise wrong(section.line, "a refusing case needs an accepted neighbour")
    yield from found


def load_cases(book: Path = BOOK, csrc: Path = CSRC) -> list[Case]:
    """The whole book as a flat list, chapter by chapter. Raises BookError if anything in it is not as it should be."""
    errors, limits = error_table(csrc), default_limits(csrc)
    cases: list[Case] = []
    headings: dict[str, str] = {}
    for path in chapters(book):
        for section in _sections(path):
            place = f"{path.name}:{section.line}"
            if section.heading in headings:
                raise BookError(path, section.line, f"{section.heading!r} is also at {headings[section.heading]}")
            headings[section.heading] = place
            cases += _cases(section, errors, limits)
    slugs: dict[str, Case] = {}
    for case in cases:
        other = slugs.setdefault(case.slug, case)
        if other is not case:
            raise BookError(book / case.file, case.line, f"the name is too close to {other.name!r}")
    return cases


# --- the grammar of events ------------------------------------------------------------------------------------------------

_TEXT = r"(?:[ -\[\]-~]|\\r|\\n|\\x[0-9a-f]{2})"
_TOKEN = r"[!#$%&'*+.^_`|~0-9a-z-]+"
_GRAMMAR: dict[str, re.Pattern[str]] = {
    "request_head": re.compile(
        r"request_head [!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ 1\.[01] (?:none|chunked|length=(?:0|[1-9]\d*)) "
        r"(?P<persistence>keep_alive|close)(?: expect)?(?: upgrade)?"
    ),
    "host": re.compile(r"host(?: [!-~]+)?"),
    "path": re.compile(r"path [!-~]+"),
    "query": re.compile(r"query(?: [!-~]+)?"),
    "field": re.compile(rf"field {_TOKEN}:(?: {_TEXT}+)?"),
    "body": re.compile(rf"body (?:\d+ bytes|{_TEXT}+)"),
    "trailer": re.compile(rf"trailer {_TOKEN}:(?: {_TEXT}+)?"),
    "end_of_message": re.compile("end_of_message"),
    "error": re.compile(r"error (?P<name>\w+) (?P<status>\d{3})"),
    "need_data": re.compile("need_data"),
    "closed": re.compile("closed"),
}

# After each event: what may come next. "" is the beginning or the end of the list.
_AFTER: dict[str, frozenset[str]] = {
    after: frozenset(kinds.split("/"))
    for after, kinds in {
        "": "request_head/error/need_data/",
        "request_head": "host/path/query/field/body/trailer/end_of_message/error/need_data",
        "host": "path/query/field/body/trailer/end_of_message/error/need_data",
        "path": "query/field/body/trailer/end_of_message/error/need_data",
        "query": "field/body/trailer/end_of_message/error/need_data",
        "field": "field/body/trailer/end_of_message/error/need_data",
        "body": "trailer/end_of_message/need_data",
        "trailer": "trailer/end_of_message",
        "end_of_message": "request_head/error/need_data/closed/",
        "error": "",
        "need_data": "",
        "closed": "",
    }.items()
}


def check_events(events: tuple[str, ...], errors: dict[str, int], path: Path, line: int) -> None:
    """Raise BookError unless `events` is a possible history: each line well-formed, in a possible order, known errors."""
    before, persistence = "", ""
    for event in events:
        kind = event.split(" ", 1)[0]
        match = _GRAMMAR[kind].fullmatch(event) if kind in _GRAMMAR else None
        if match is None:
            raise BookError(path, line, f"malformed event {event!r}")
        if kind not in _AFTER[before]:
            raise BookError(path, line, f"{event!r} cannot follow {before or 'nothing'!r}")
        if kind == "error":
            name, status = match["name"], int(match["status"])
            if errors.get(name) != status:
                raise BookError(path, line, f"errors.h has {name!r} with status {errors.get(name)}, not {status}")
        if before == "end_of_message" and (kind == "closed") != (persistence == "close"):
            raise BookError(path, line, "a request that is close ends with 'closed', and no other does")
        if kind == "request_head":
            persistence = match["persistence"]
        before = kind
    if "" not in _AFTER[before]:
        raise BookError(path, line, f"the events cannot end with {before!r}")
    if before == "end_of_message" and persistence == "close":
        raise BookError(path, line, "a request that is close ends with 'closed'")


# --- for C and for the fuzzers --------------------------------------------------------------------------------------------


def c_string(data: bytes) -> str:
    """`data` as C string literals, one per line of the input (octal escapes: they cannot swallow a digit behind them)."""

    def literal(piece: bytes) -> str:
        plain = (chr(byte) if 0x20 <= byte <= 0x7E and byte not in b'"\\?' else f"\\{byte:03o}" for byte in piece)
        return '"' + "".join(plain) + '"'

    pieces: list[str] = []
    for line in data.splitlines(keepends=True) or [b""]:
        pieces += [literal(line[at : at + 96]) for at in range(0, len(line), 96)] or ['""']
    return "\n     ".join(pieces)


def c_table(cases: list[Case], limits: dict[str, int]) -> str:
    """The book as a C header: `fs_cases[]`, `fs_cases_len`."""
    out = [
        "/* Made from the case book by tests/cases/loader.py; do not edit. */",
        "#ifndef FS_CASES_H",
        "#define FS_CASES_H",
        "",
        '#include "base.h"',
        "",
        "typedef struct {",
        "  const char *name;   /* unique */",
        "  const char *file;   /* chapter and line: where to look when it fails */",
        "  unsigned line;",
        "  bool accepted;      /* the accepted neighbour of a case */",
        "  const char *data;   /* data_len bytes; may hold NUL */",
        "  size_t data_len;",
        "  const char *events; /* one per line, each ended by a newline */",
        "  fs_limits limits;",
        "} fs_case;",
        "",
        "#if defined(__GNUC__) || defined(__clang__)",
        "#pragma GCC diagnostic push",
        '#pragma GCC diagnostic ignored "-Woverlength-strings"',
        "#endif",
        "static const fs_case fs_cases[] = {",
    ]
    for case in cases:
        values = {**limits, **case.limits}
        given = ", ".join(
            f".{name} = {'FS_UNLIMITED' if value == UNLIMITED else value}" for name, value in values.items()
        )
        events = "".join(event + "\n" for event in case.events).encode("ascii")
        out += [
            f"    {{{c_string(case.name.encode('ascii'))},",
            f"     {c_string(case.file.encode('ascii'))}, {case.line}, {'true' if case.accepted else 'false'},",
            f"     {c_string(case.data)},",
            f"     {len(case.data)},",
            f"     {c_string(events)},",
            f"     {{{given}}}}},",
        ]
    out += [
        "};",
        "#if defined(__GNUC__) || defined(__clang__)",
        "#pragma GCC diagnostic pop",
        "#endif",
        "static const unsigned fs_cases_len = sizeof fs_cases / sizeof fs_cases[0];",
        "",
        "#endif",
        "",
    ]
    return "\n".join(out)


def write_seeds(cases: list[Case], folder: Path) -> int:
    """Write each case's bytes into a file of its own; returns their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        (folder / case.slug).write_bytes(case.data)
    return len(cases)


def count_table(cases: list[Case]) -> str:
    """Per chapter: named cases, variants, accepted neighbours, inputs in all."""
    rows = [("chapter", "cases", "variants", "neighbours", "inputs")]
    files = sorted({case.file for case in cases})
    for file in [*files, ""]:
        here = [case for case in cases if not file or case.file == file]
        named = len({case.heading for case in here})
        variants = sum("[variant " in case.name for case in here)
        accepted = sum(case.accepted for case in here)
        rows.append((file or "total", str(named), str(variants), str(accepted), str(len(here))))
    return "\n".join(f"{row[0]:<24}{row[1]:>7}{row[2]:>10}{row[3]:>12}{row[4]:>8}" for row in rows)


def main(arguments: list[str] | None = None) -> int:
    """Command line: check the book, and print or write one of its other shapes."""
    parser = argparse.ArgumentParser(description="Read and check the case book.")
    parser.add_argument("--c", action="store_true", help="print the book as a C header")
    parser.add_argument("--seeds", type=Path, metavar="DIR", help="write one fuzz seed file per case")
    parser.add_argument("--count", action="store_true", help="print the number of cases per chapter")
    options = parser.parse_args(arguments)
    try:
        cases = load_cases()
    except BookError as error:
        print(error, file=sys.stderr)
        return 1
    if options.c:
        sys.stdout.write(c_table(cases, default_limits()))
    if options.seeds is not None:
        print(f"{write_seeds(cases, options.seeds)} seeds in {options.seeds}", file=sys.stderr)
    if options.count:
        print(count_table(cases))
    if not (options.c or options.seeds is not None or options.count):
        print(f"{len(cases)} inputs, all well-formed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
