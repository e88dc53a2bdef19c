"""hooks: the operator's functions: found, checked, called with what they want, and harmless when they fail."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from process.running import HERE, Running

from fastserve.errors import ConfigError
from fastserve.process.config import Config
from fastserve.process.hooks import FACTS, Hooks

ARGUMENTS = {"config": None, "slot": 1, "pid": 2, "code": 3, "addresses": [], "pids": [4]}


def hooks(**functions: object) -> Hooks:
    config = Config(app="a:b", hooks=SimpleNamespace(**functions))
    return Hooks.of(config)


def call(found: Hooks, name: str) -> None:
    found.call(name, **{fact: ARGUMENTS[fact] for fact in FACTS[name] if fact != "config"})


@pytest.mark.parametrize("name", FACTS)
def test_a_hook_takes_what_it_names(name: str) -> None:
    told: list[dict[str, object]] = []
    found = hooks(**{name: lambda **facts: told.append(facts)})
    call(found, name)
    assert told[0].pop("config").app == "a:b"  # type: ignore[attr-defined]
    assert told == [{fact: ARGUMENTS[fact] for fact in FACTS[name] if fact != "config"}]
    call(hooks(**{name: lambda: told.append({})}), name)
    assert told[1] == {}


def test_only_some_facts_and_own_defaults() -> None:
    told: list[object] = []
    call(hooks(worker_exit=lambda code, where="log": told.append((code, where))), "worker_exit")
    assert told == [(3, "log")]


def test_nothing_is_called_where_nothing_is_there() -> None:
    call(hooks(on_exit=lambda: None), "when_ready")
    empty = Hooks.of(Config(app="a:b"))
    assert not empty and hooks(on_exit=lambda: None)
    for name in FACTS:
        call(empty, name)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)])
def test_a_hook_that_fails_is_logged_and_changes_nothing(
    error: BaseException, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("fastserve"), "propagate", True)

    def fails() -> None:
        raise error

    call(hooks(on_exit=fails), "on_exit")
    assert "the hook on_exit failed" in caplog.text and type(error).__name__ in caplog.text


async def coroutine() -> None: ...


@pytest.mark.parametrize(
    ("functions", "text"),
    [
        ({"on_exit": 5}, "hooks: on_exit must be a plain function"),
        ({"on_exit": coroutine}, "hooks: on_exit must be a plain function"),
        ({"pre_fork": lambda worker: None}, "hooks: pre_fork can take config, slot by name, not 'worker'"),
        ({"when_redy": print}, r"has none of when_ready, .*\(it has 'when_redy'\)"),
    ],
)
def test_mistakes_are_told_at_the_start(functions: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        hooks(**functions)


HOOKS = """\
import os

def _say(*words):
    os.write(2, (" ".join(map(str, words)) + "\\n").encode())

def when_ready(addresses, pids):
    _say("hook when_ready", addresses[0].port > 0, len(pids))

def worker_ready(slot, pid):
    _say("hook worker_ready", slot, pid == os.getpid())

def worker_exit(code):
    _say("hook worker_exit", code)

def on_exit(code):
    _say("hook on_exit", code)
    raise ValueError("the hook's own fault")

class Other:
    on_exit = staticmethod(lambda: _say("hook other"))
"""


@pytest.mark.parametrize("arguments", [(), ("--reload",)])
def test_end_to_end(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "myhooks.py").write_text(HOOKS)
    (tmp_path / "web.py").write_text((HERE / "apps.py").read_text())
    with Running("web:app", "--port", "0", "--hooks", "myhooks", *arguments, cwd=tmp_path) as server:
        server.ready()
        server.wait_for("hook when_ready True 1")
        server.wait_for("hook worker_ready 0 True")
        assert server.stop() == 0
        said = [line for line in server.lines if line.startswith("hook")]
        assert said[-2:] == ["hook worker_exit 0", "hook on_exit 0"]
        assert "the hook on_exit failed" in server.err


def test_an_object_of_a_module(tmp_path: Path) -> None:
    (tmp_path / "myhooks.py").write_text(HOOKS)
    (tmp_path / "web.py").write_text((HERE / "apps.py").read_text())
    with Running("web:app", "--port", "0", "--hooks", "myhooks:Other", "-w", "2", cwd=tmp_path) as server:
        server.ready()
        assert server.stop() == 0
        assert server.lines.count("hook other") == 1


def test_hooks_that_are_not_there_end_the_start(tmp_path: Path) -> None:
    with Running("apps:app", "--app-dir", str(HERE), "--hooks", "nohooks", cwd=tmp_path) as server:
        assert server.wait() == 3
        assert server.lines[0].startswith('fastserve: error: module "nohooks" not found')
