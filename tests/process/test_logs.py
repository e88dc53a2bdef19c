"""logs: levels, colours, and logging configured by a file of any kind."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from process.running import HERE, Running, until

from fastserve.errors import ConfigError
from fastserve.process.config import Config
from fastserve.process.logs import ColourFormatter, configure_logging, load_log_config, painter

APP = ("apps:app", "--app-dir", str(HERE), "--port", "0")
TABLE = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"short": {"format": "MINE %(levelname)s %(message)s"}},
    "handlers": {"err": {"class": "logging.StreamHandler", "formatter": "short"}},
    "loggers": {"fastserve": {"handlers": ["err"], "level": "INFO", "propagate": False}},
}
FILES = {
    "log.json": json.dumps(TABLE),
    "log.yaml": """\
version: 1
disable_existing_loggers: false
formatters: {short: {format: "MINE %(levelname)s %(message)s"}}
handlers: {err: {class: logging.StreamHandler, formatter: short}}
loggers: {fastserve: {handlers: [err], level: INFO, propagate: false}}
""",
    "log.toml": """\
version = 1
disable_existing_loggers = false
formatters.short.format = "MINE %(levelname)s %(message)s"
handlers.err = {class = "logging.StreamHandler", formatter = "short"}
loggers.fastserve = {handlers = ["err"], level = "INFO", propagate = false}
""",
    "log.ini": """\
[loggers]
keys=root,fastserve
[handlers]
keys=err
[formatters]
keys=short
[logger_root]
handlers=
[logger_fastserve]
handlers=err
qualname=fastserve
level=INFO
propagate=0
[handler_err]
class=StreamHandler
formatter=short
[formatter_short]
format=MINE %(levelname)s %(message)s
""",
}


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The logger "fastserve", put back as it was."""
    logger = logging.getLogger("fastserve")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield logger
    logger.handlers[:], logger.level, logger.propagate = before
    logger.setLevel(before[1])


@pytest.mark.parametrize("name", FILES)
def test_a_file_configures_logging(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name])
    with Running(*APP, "--log-config", name, cwd=tmp_path) as server:
        server.ready()
        assert server.stop() == 0
        assert "MINE INFO stopped" in server.lines


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "log-config: 'PATH' cannot be used: "),
        ("a.json", "[]", "log-config: 'PATH' cannot be used: it is no table"),
        ("a.json", '{"version": 2}', "log-config: 'PATH' cannot be used: "),
        ("a.yaml", "a: [", "log-config: 'PATH' cannot be used: "),
        ("a.toml", "=", "log-config: 'PATH' cannot be used: "),
        ("a.ini", "nothing", "log-config: 'PATH' cannot be used: "),
        ("b.json", None, "log-config: cannot read 'PATH': No such file or directory"),
        ("b.ini", None, "log-config: cannot read 'PATH': No such file or directory"),
        ("c.json", json.dumps({**TABLE, "handlers": {"err": {"class": "no.Such"}}}), "log-config: 'PATH' cannot be used: "),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_one_line(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_log_config(str(path))
    assert str(caught.value).startswith(message.replace("PATH", str(path))) and "\n" not in str(caught.value)


def test_a_dictionary_and_a_level_for_whom_it_does_not_name(logger: logging.Logger) -> None:
    logger.setLevel(logging.NOTSET)
    configure_logging(Config(app="a:b", log_level="warning", log_config={"version": 1, "incremental": True}))
    assert logger.level == logging.WARNING
    load_log_config({"version": 1, "incremental": True, "loggers": {"fastserve": {"level": "ERROR"}}})
    configure_logging(Config(app="a:b", log_level="debug", log_config={"version": 1, "incremental": True}))
    assert logger.level == logging.ERROR


@pytest.mark.parametrize(("level", "said"), [("info", True), ("warning", False)])
def test_log_level(tmp_path: Path, level: str, said: bool) -> None:
    with Running(*APP, "--log-level", level, "--uds", str(tmp_path / "s"), cwd=tmp_path) as server:
        if said:
            server.ready()
        else:
            until((tmp_path / "s").exists, "it listens")
        server.stop()
        assert any("INFO" in line for line in server.lines) is said


@pytest.mark.parametrize(
    ("arguments", "environ", "coloured"),
    [(("--use-colors",), {}, True), (("--use-colors",), {"NO_COLOR": "1"}, True), ((), {}, False)],
)
def test_colours_can_be_forced(
    tmp_path: Path, arguments: tuple[str, ...], environ: dict[str, str], coloured: bool
) -> None:
    with Running(*APP, *arguments, cwd=tmp_path, **environ) as server:
        server.wait_for("stop with Ctrl-C")
        server.stop()
        assert any("\x1b[32mINFO\x1b[0m" in line for line in server.lines) is coloured


def test_the_formatter_leaves_the_record_as_it_was() -> None:
    record = logging.LogRecord("fastserve", logging.ERROR, "f", 1, "said", None, None)
    assert "\x1b[31mERROR\x1b[0m: said" in ColourFormatter(painter(io.StringIO(), True)).format(record)
    assert record.levelname == "ERROR"
    assert " ERROR: said" in ColourFormatter(painter(io.StringIO(), False)).format(record)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_traceback_begins_in_the_application(tmp_path: Path, log_format: str) -> None:
    """How the server came to call a handler helps nobody to mend it."""
    (tmp_path / "crash.py").write_text(
        "from fastserve import App\napp = App()\n@app.get('/')\nasync def crash():\n    return {}['x']\n"
    )
    with Running("crash", "--port", "0", "--log-format", log_format, cwd=tmp_path) as server:
        with pytest.raises(AssertionError):
            server.ready().get()  # 500
        server.wait_for("KeyError")
        frames = re.findall(r'File \\?"(.+?)\\?"', server.err)
        assert frames == [str(tmp_path / "crash.py")]
