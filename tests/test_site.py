"""The documentation as a site: it builds without a warning, every link and anchor leads somewhere, guides are run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
import yaml
from process.running import Running

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SITE = "http://site/"


class Page(HTMLParser):
    """The links of a page, the names that a link may end in, and the text of its paragraphs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.names: set[str] = set()
        self.classes: set[str] = set()
        self.paragraphs: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.names |= {value for key, value in attrs if key in ("id", "name") and value}
        self.classes |= set((given.get("class") or "").split())
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        source = given.get("src") or (given.get("href") if tag == "link" and given.get("rel") != "canonical" else None)
        if source:
            self.fetched.append(source)
        if tag == "p":
            self._inside = True
            self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "p":
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.paragraphs[-1] += data


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, built anew."""
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "WARNING" not in result.stdout + result.stderr
    return folder


@pytest.fixture(scope="module")
def site(built: Path) -> dict[str, Page]:
    """Every page of the site, by its address."""
    folder, pages = built, {}
    for path in folder.rglob("*"):
        address = path.relative_to(folder).as_posix()
        if path.name == "index.html" or address == "404.html":
            pages[address.removesuffix("index.html")] = Page(path.read_text(encoding="utf-8"))
        elif path.is_file():
            pages[address] = Page("")
    return pages


def test_every_link_of_the_site_leads_somewhere(site: dict[str, Page]) -> None:
    broken, followed = [], 0
    for address, page in site.items():
        for link in [*page.links, *page.fetched]:
            target = urlsplit(urljoin(SITE + address, link))
            if f"{target.scheme}://{target.netloc}/" != SITE or address == "404.html":
                continue
            found = site.get(unquote(target.path.lstrip("/")))
            followed += 1
            if found is None or (target.fragment and unquote(target.fragment) not in found.names):
                broken.append(f"{address or '/'}: {link}")
    assert followed > 1000 and not broken, "\n".join(sorted(set(broken))[:20])


def test_the_site_fetches_nothing_from_elsewhere(site: dict[str, Page]) -> None:
    foreign = {link for page in site.values() for link in page.fetched if re.match(r"(?:https?:)?//", link)}
    assert not foreign


SCRIPTS_MAY_FETCH = {
    "https://unpkg.com/mermaid": "drawings in text: no page has one",
    "https://unpkg.com/resize-observer": "for browsers older than 2020",
    "https://api.github.com/": "figures of the repository that the site names: it names none",
    "https://${e}/api/v4/projects/": "the same, of a GitLab",
}
"""What the scripts of the theme fetch from elsewhere, and why they do not do so here."""


def test_scripts_of_the_site_fetch_nothing_from_elsewhere(built: Path, site: dict[str, Page]) -> None:
    named = {
        address
        for path in built.rglob("*.js")
        if path.is_file()  # the page about a script is a folder of its name
        for address in re.findall(r'["\'`](https?://[^"\'`\s]+)', path.read_text(encoding="utf-8"))
    }
    assert named, "no script of the theme is read"
    unknown = {address for address in named if not address.startswith(tuple(SCRIPTS_MAY_FETCH))}
    assert not unknown
    assert not [address for address, page in site.items() if "mermaid" in page.classes]
    assert "repo_url" not in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def test_lists_are_lists_for_the_site_too(site: dict[str, Page]) -> None:
    """A list right below a line of prose is a list for the forges, and more prose for Python-Markdown."""
    wrong = [
        (address, text) for address, page in site.items() for text in page.paragraphs if re.search(r"\n[-*] ", text)
    ]
    assert not wrong


def test_sources_that_pages_name_are_pages(site: dict[str, Page]) -> None:
    for address in ("ARCHITECTURE/", "csrc/conn.c/", "tests/cases/", "examples/hello.py/", "examples/files/"):
        assert f"repository/{address}" in site
    assert any("scan.c" in link for link in site["follow-one-request/"].links)


def test_every_page_is_in_the_navigation_once() -> None:
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]

    def leaves(node: object) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        else:
            assert isinstance(node, (list, dict))
            for below in node if isinstance(node, list) else node.values():
                yield from leaves(below)

    named = list(leaves(navigation))
    assert sorted(named) == sorted(page.name for page in DOCS.glob("*.md"))


# ------------------------------------------------------------------------------------------------------- guides

GUIDES = ("quick-start.md", "fastapi.md", "starlette.md", "django.md", "flask.md")


def of_language(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    return [
        (guide, line)
        for guide in GUIDES
        for block in of_language(DOCS / guide, "sh")
        for line in block.splitlines()
        if line.startswith("fastserve ")
    ]


@pytest.mark.parametrize(("guide", "line"), commands(), ids=lambda text: text)
def test_the_commands_of_the_guides_serve_their_files(tmp_path: Path, guide: str, line: str) -> None:
    """Files are written as the guide names them, the command is given as it stands, on a port of our own."""
    for block in of_language(DOCS / guide, "python"):
        if name := re.match(r"# ([\w/]+\.py)\n", block):
            file = tmp_path / name[1]
            file.parent.mkdir(exist_ok=True)
            file.write_text(block, encoding="utf-8")
    words = shlex.split(line)[1:]
    for option, value in (("--host", "127.0.0.1"), ("--admin", f"unix:{tmp_path / 'admin'}"), ("--workers", "2")):
        if option in words:
            words[words.index(option) + 1] = value
    with Running(*words, "--port", "0", cwd=tmp_path) as server:
        assert server.ready().get("/")
        assert server.stop() == 0


def test_there_are_guides_to_run() -> None:
    assert len(commands()) >= 10 and {guide for guide, _ in commands()} == set(GUIDES)


# ---------------------------------------------------------------------------------------------------- migration

PEERS = tomllib.loads((DOCS / "migration.toml").read_text(encoding="utf-8"))


def options_of_uvicorn() -> set[str]:
    from uvicorn.main import main

    return {param.opts[0] for param in main.params if param.opts[0].startswith("--")}


def options_of_granian() -> set[str]:
    from granian.cli import cli

    return {param.opts[0] for param in cli.params if param.opts[0].startswith("--")}


def settings_of_gunicorn() -> tuple[set[str], set[str]]:
    from gunicorn.config import KNOWN_SETTINGS

    flags = {next(flag for flag in setting.cli if flag.startswith("--")) for setting in KNOWN_SETTINGS if setting.cli}
    return flags, {setting.name for setting in KNOWN_SETTINGS if not setting.cli}


def options_of_gunicorn() -> set[str]:
    return settings_of_gunicorn()[0]


def options_of_hypercorn() -> set[str]:
    """From its help: the parser is made inside its main()."""
    result = subprocess.run([sys.executable, "-m", "hypercorn", "--help"], capture_output=True, text=True, timeout=60)
    firsts = re.findall(r"^  (-.*?)(?:  |$)", result.stdout, re.MULTILINE)
    flags = {flag[0] for line in firsts if (flag := re.findall(r"--[\w-]+", line))}
    return flags - {"--help"}


INTROSPECT: dict[str, Callable[[], set[str]]] = {
    "uvicorn": options_of_uvicorn,
    "gunicorn": options_of_gunicorn,
    "granian": options_of_granian,
    "hypercorn": options_of_hypercorn,
}


@pytest.mark.parametrize("peer", PEERS)
def test_every_option_that_a_migration_names_exists_here(peer: str) -> None:
    from fastserve.process.arguments import make_parser

    ours = set(make_parser()._option_string_actions)
    for kind in ("flags", "settings"):
        for flag, (targets, note) in PEERS[peer].get(kind, {}).items():
            named = set(targets.split()) | set(re.findall(r"`(--[a-z-]+)", note))
            assert named <= ours, f"{flag}: {named - ours}"


@pytest.mark.parametrize("peer", PEERS)
def test_no_option_of_the_other_server_is_missing(peer: str) -> None:
    """Of the release that the page names, exactly; of any other, most are the same."""
    from importlib.metadata import version

    theirs, known = INTROSPECT[peer](), set(PEERS[peer]["flags"])
    if version(peer) == PEERS[peer]["version"]:
        assert theirs == known
        if peer == "gunicorn":
            assert settings_of_gunicorn()[1] == set(PEERS[peer]["settings"])
    assert len(theirs & known) > 0.7 * len(theirs)


def test_commands_of_the_migration_pages_are_understood() -> None:
    from fastserve.process.sources import gather

    found = 0
    for page in sorted(DOCS.glob("from-*.md")):
        for block in of_language(page, "sh"):
            for line in block.splitlines():
                assert gather(shlex.split(line)[1:], {}).config.app.startswith("shop.")
                found += 1
    assert found >= 4
