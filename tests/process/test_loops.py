"""loops: an event loop by any name, and a server that runs on it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import uvloop
from process.running import HERE, Running

from fastserve.errors import ConfigError
from fastserve.process.loops import describe, new_loop

FACTORIES = """\
import asyncio
class Loop(asyncio.SelectorEventLoop): pass
def make(): return Loop()
def none(): return 5
def fails(): raise RuntimeError("no loop today")
value = 5
"""


@pytest.mark.parametrize(
    ("name", "kind"), [("auto", uvloop.Loop), ("uvloop", uvloop.Loop), ("asyncio", asyncio.SelectorEventLoop)]
)
def test_names(name: str, kind: type) -> None:
    loop = new_loop(name)
    assert isinstance(loop, kind)
    loop.close()
    assert describe(name).startswith("asyncio" if name == "asyncio" else "uvloop ")


def test_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "uvloop", None)
    monkeypatch.setattr("fastserve.process.loops.importlib.util.find_spec", lambda _name: None)
    loop = new_loop("auto")
    assert isinstance(loop, asyncio.SelectorEventLoop) and describe("auto") == "asyncio"
    loop.close()
    with pytest.raises(ConfigError, match="uvloop is not installed"):
        new_loop("uvloop")


@pytest.mark.parametrize("arguments", [(), ("-w", "2"), ("--reload",)])
@pytest.mark.parametrize(("name", "shown"), [("asyncio", "asyncio"), ("factories:make", "factories:make")])
def test_a_server_on_it(tmp_path: Path, name: str, shown: str, arguments: tuple[str, ...]) -> None:
    (tmp_path / "factories.py").write_text(FACTORIES)
    (tmp_path / "which.py").write_text(
        "import asyncio\nfrom fastserve import App\napp = App()\n"
        "@app.get('/')\nasync def x(): return type(asyncio.get_running_loop()).__name__\n"
    )
    with Running("which:app", "--port", "0", "--loop", name, *arguments, cwd=tmp_path) as server:
        assert server.ready().get() == ("Loop" if ":" in name else "_UnixSelectorEventLoop")
        assert server.lines[0].endswith(f", {shown}")
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("factories:none", 'fastserve: error: the loop factory "factories:none" made no event loop, but int'),
        ("factories:value", 'fastserve: error: loop: "factories:value" cannot be called'),
        ("factories:mak", 'fastserve: error: module "factories" has no attribute "mak"; did you mean "make"?'),
        ("factories:fails", 'fastserve: error: the loop factory "factories:fails" failed: RuntimeError: no loop today'),
    ],
)
def test_factories_that_are_none(tmp_path: Path, name: str, line: str) -> None:
    (tmp_path / "factories.py").write_text(FACTORIES)
    (tmp_path / "web.py").write_text((HERE / "apps.py").read_text())
    with Running("web:app", "--port", "0", "--loop", name, cwd=tmp_path) as server:
        assert server.wait() == 3
        assert server.lines[-1] == line
