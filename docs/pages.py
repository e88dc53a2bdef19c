"""The site's own step: what the pages link to outside docs/ becomes pages as well, so that no link leads nowhere.

Called by: mkdocs, as a hook (mkdocs.yml). Calls: nothing of ours; it reads the clone it stands in.

The pages are written to be read in the clone, where `../csrc/conn.c` is a file. A site has only what is put into it. So
this hook follows the links from docs/ on: a Markdown file outside docs/ (ARCHITECTURE.md, the case book) becomes a page,
any other text a page that shows it, a folder a list of its files, a picture is copied. All stand below `repository/`, in
the clone's own tree. Links are then written as mkdocs wants them, and `strict` checks each one, anchors included.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parent.parent
BELOW = "repository"
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
NAMED = re.compile(r"\[([\w-]+\.md)\]\((\1(?:#[^)\s]*)?)\)")
CODE = re.compile(r"^(?P<fence>```+|~~~+).*?^(?P=fence)[^\n]*$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ ", re.MULTILINE)
PICTURES = {".png", ".svg", ".jpg", ".gif", ".ico"}
LANGUAGES = {".pyx": "cython", ".pxd": "cython", ".pyi": "python", ".py": "python", ".c": "c", ".h": "c",
             ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".service": "ini", ".socket": "ini",
             ".env": "ini", ".conf": "nginx", ".cfg": "text"}  # fmt: skip


def on_config(config: Any) -> Any:
    """Anchors as the forges make them: the same links must work there and here."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = anchor
    return config


def anchor(heading: str, separator: str = "-") -> str:
    """The name of a heading: lower case, without punctuation, a hyphen for each space."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def on_files(files: Files, config: Any) -> Files:
    """Add a file for everything that is linked to, and for what that links to."""
    waiting = [(f"docs/{file.src_uri}", _text(ROOT / "docs" / file.src_uri)) for file in files.documentation_pages()]
    known = {path for path, _ in waiting}
    while waiting:
        path, text = waiting.pop()
        for link in _links(text):
            target = _target(path, link)
            if target is None or target in known or target.startswith("docs/"):
                continue
            known.add(target)
            content = _content(target)
            files.append(File.generated(config, _uri(target), content=content, inclusion=InclusionLevel.NOT_IN_NAV))
            if isinstance(content, str) and (target.endswith(".md") or (ROOT / target).is_dir()):
                waiting.append((target if target.endswith(".md") else f"{target}/{INDEX}", content))
    return files


def title(uri: str) -> str:
    """The first heading of a page of docs/."""
    match = re.search(r"^# (.+)$", _text(ROOT / "docs" / uri), re.MULTILINE)
    return match[1] if match else uri


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Write the page's links from where the page stands in the site; `[tls.md](tls.md)` is called by its heading."""
    here = _path(page.file.src_uri)
    if here.startswith("docs/"):
        markdown = NAMED.sub(lambda match: f"[{title(match[1])}]({match[2]})", markdown)

    def from_here(match: re.Match[str]) -> str:
        target = _target(here, match[1])
        if target is None:
            return match[1]
        _, hash_, name = match[1].partition("#")
        return posixpath.relpath(_uri(target), posixpath.dirname(page.file.src_uri) or ".") + hash_ + name

    pieces, end = [], 0
    for code in CODE.finditer(markdown):
        pieces += [LINK.sub(from_here, markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*pieces, LINK.sub(from_here, markdown[end:])])


# ------------------------------------------------------------------------------------------------------- paths

INDEX = "files.md"  # of a folder


def _uri(path: str) -> str:
    """Where something of the clone stands in the site's sources."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if (ROOT / path).is_dir():
        return posixpath.join(BELOW, path, INDEX)
    is_page = path.endswith(".md") or Path(path).suffix in PICTURES
    return posixpath.join(BELOW, path if is_page else f"{path}.md")


def _path(uri: str) -> str:
    """The other way: where a page of the site stands in the clone."""
    if not uri.startswith(BELOW + "/"):
        return "docs/" + uri
    path = uri.removeprefix(BELOW + "/")
    return path if (ROOT / path).exists() or path.endswith("/" + INDEX) else path.removesuffix(".md")


def _target(page: str, link: str) -> str | None:
    """What a link on a page names, from the clone's root; None: not in the clone, or on the page itself."""
    path = link.partition("#")[0]
    if not path or re.match(r"[a-z]+:", path):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
    return None if target.startswith("..") or not (ROOT / target).exists() else target


def _links(text: str) -> list[str]:
    return LINK.findall(CODE.sub("", text))


# ----------------------------------------------------------------------------------------------------- content


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _content(path: str) -> str | bytes:
    """What the site shows of it."""
    file = ROOT / path
    if file.is_dir():
        names = sorted(entry for entry in os.listdir(file) if (file / entry).is_file() and not entry.startswith("."))
        shown = [entry for entry in names if Path(entry).suffix in {*LANGUAGES, ".md"} or entry == "Dockerfile"]
        return f"# {path}\n\n" + "".join(f"- [{entry}]({entry})\n" for entry in shown)
    if file.suffix in PICTURES:
        return file.read_bytes()
    text = _text(file)
    if file.suffix == ".md":
        return text if HEADING.search(text) else f"# {path}\n\n{text}"
    fence = "`" * (max((len(run) for run in re.findall(r"`+", text)), default=2) + 3)
    language = "dockerfile" if file.name == "Dockerfile" else LANGUAGES.get(file.suffix, "text")
    return f"# {path}\n\n{fence}{language}\n{text}\n{fence}\n"
