"""sources: flags, environment, env file, TOML, defaults: who wins, and where each value says it came from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from fastserve.errors import ConfigError
from fastserve.process.arguments import flags_of, parse
from fastserve.process.config import OPTIONS, Config, Option
from fastserve.process.sources import gather, print_config, reread


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no fastserve.toml and no pyproject.toml but those of the test


def config(*arguments: str, **environ: str) -> Config:
    return gather(("a:b", *arguments), environ).config


def addresses(*arguments: str, **environ: str) -> list[str]:
    return [str(address) for address in config(*arguments, **environ).addresses]


def sample(name: str, option: Option) -> tuple[str, object]:
    """A value other than the default, as text, and what it means."""
    default = getattr(Config(app="a:b"), name)
    if option.choices:
        other = next(choice for choice in option.choices if choice != default)
        return other, other
    match option.kind:
        case "flag":
            return ("false", False) if default is True else ("true", True)
        case "whole" | "workers":
            number = int(option.least or 0) + 7
            return str(number), number
        case "bytes":
            return "9k", 9 * 1024
        case "seconds":
            return "1m30s", 90.0
        case "mode":
            return "640", 0o640
        case "texts":
            text = {
                "bind": "127.0.0.1:7001",
                "admin": "127.0.0.1:7002",
                "header": "X-Sample: yes",
                "access_log_exclude": "/x",
                "limit_exempt": "/x",
                "static": f"/x={Path(__file__).parent}",
                "forwarded_allow_ips": "10.0.0.0/8",
                "forwarded_fields": "forwarded",
            }.get(name, "sample")
            return text, (text,)
        case _:
            text = {"loop": "asyncio", "root_path": "/sample", "lens": "sample:50"}.get(name, "sample")
            return text, text


# Options whose other value changes or needs others: they have tests of their own.
OTHERS = ("env_file", "dev", "reload", "ssl_keyfile", "ssl_ca_certs", "ssl_cert_reqs", "ssl_version")
PLAIN = {name: option for name, option in OPTIONS.items() if name not in OTHERS}


@pytest.mark.parametrize("name", PLAIN)
def test_every_option_from_every_source(name: str, tmp_path: Path) -> None:
    """The same value by each flag, by FASTSERVE_NAME, by the env file, and by TOML with dashes and underscores."""
    option = OPTIONS[name]
    text, value = sample(name, option)
    for flag in flags_of(name, option):
        if option.kind == "flag":
            arguments = (flag,) if value is True else (flag.replace("--", "--no-", 1),)
        else:
            arguments = (flag, text)
        found = config(*arguments)
        assert getattr(found, name) == value and found.origins[name] == "--" + name.replace("_", "-")

    variable = "FASTSERVE_" + name.upper()
    found = config(**{variable: text})
    assert getattr(found, name) == value and found.origins[name] == variable

    (tmp_path / ".env").write_text(f"{variable}='{text}'\n")
    found = config("--env-file", ".env")
    assert getattr(found, name) == value and found.origins[name] == f".env: {variable}"

    raw = text if option.kind in ("flag", "whole", "workers") else f'"{text}"'
    for key in {name, name.replace("_", "-")}:
        (tmp_path / "fastserve.toml").write_text(f"# options\n{key} = {raw}\n")
        found = config()
        assert getattr(found, name) == value and found.origins[name] == "fastserve.toml:2"


def spellings() -> list[tuple[str, str]]:
    """Meaning and flag, row by row, of the table of spellings in docs/configuration.md."""
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    part = text.partition("## Spellings of other servers")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")]
    found = [(row[0], flag) for row in rows[2:] for flag in re.findall(r"`(-[^`]+)`", row[-1])]
    assert len(rows) > 16 and len(found) > 40
    return found


@pytest.mark.parametrize(("meaning", "flag"), spellings())
def test_every_spelling_of_the_table_is_accepted(meaning: str, flag: str) -> None:
    name = next(name for name, option in OPTIONS.items() if flag.replace("--no-", "--", 1) in flags_of(name, option))
    if OPTIONS[name].kind == "flag":
        assert parse(["a:b", flag]) == {"app": "a:b", name: not flag.startswith("--no-")}
    else:
        text, value = sample(name, OPTIONS[name])
        assert parse(["a:b", flag, text]) == {"app": "a:b", name: value}
        if flag.startswith("--"):
            assert parse(["a:b", f"{flag}={text}"]) == {"app": "a:b", name: value}


def test_flags_of_uvicorn_that_the_table_names_are_ours_too() -> None:
    """What stands in uvicorn's column has the same name here, save what is h11's."""
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    part = text.partition("## Spellings of other servers")[2].partition("\n## ")[0]
    for line in part.splitlines()[4:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and "h11" not in line:
            assert set(re.findall(r"`(--[^`]+)`", cells[1])) <= set(re.findall(r"`(--[^`]+)`", cells[3])), cells[0]


def test_what_a_file_has_switched_on_can_be_switched_off(tmp_path: Path) -> None:
    (tmp_path / "fastserve.toml").write_text("factory = true\nreload = true\n")
    assert config().factory and config().reload
    assert not config("--no-factory", "--no-reload").factory and not config("--no-reload").reload
    assert not config("--no-reload", FASTSERVE_RELOAD="1").reload and not config(FASTSERVE_RELOAD="no").reload


def test_the_first_source_that_speaks_decides(tmp_path: Path) -> None:
    (tmp_path / "fastserve.toml").write_text('threads = 4\nbacklog = 4\nenv-file = "e"\nlog-level = "error"\n')
    (tmp_path / "e").write_text("FASTSERVE_THREADS=3\nFASTSERVE_BACKLOG=3\nOTHER=1\nMINE=file\n")
    found = config("--backlog", "1", FASTSERVE_BACKLOG="2", MINE="real")
    assert (found.backlog, found.threads, found.log_level, found.host) == (1, 3, "error", None)
    assert found.origins["env_file"] == "fastserve.toml:3" and "host" not in found.origins
    assert found.variables == {"FASTSERVE_THREADS": "3", "OTHER": "1"}
    assert config(FASTSERVE_THREADS="2").threads == 2


def test_which_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.other]\nthreads = 1\n\n[tool.fastserve]\nthreads = 5\n")
    assert config().threads == 5 and config().origins["threads"] == "pyproject.toml:5"
    (tmp_path / "fastserve.toml").write_text("threads = 6\n")
    assert config().threads == 6
    (tmp_path / "mine.toml").write_text("backlog = 7\n")
    assert (config("--config", "mine.toml").backlog, config("--config", "mine.toml").threads) == (7, 40)
    assert config(FASTSERVE_CONFIG="mine.toml").backlog == 7
    assert config("--config", "pyproject.toml").threads == 5


def test_a_pyproject_that_is_broken_is_not_our_business_unless_it_speaks_of_us(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.black\n")
    assert config().threads == 40
    (tmp_path / "pyproject.toml").write_text("[tool.fastserve\nthreads = 5")
    with pytest.raises(ConfigError, match=r"pyproject.toml is not TOML: "):
        config()


def test_the_application_may_stand_in_a_file_or_a_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an application is missing"):
        gather((), {})
    (tmp_path / "fastserve.toml").write_text('app = "shop.web:app"\n')
    assert gather((), {}).config.app == "shop.web:app"
    assert gather((), {"FASTSERVE_APP": "x:y"}).config.app == "x:y"
    assert gather(("a:b",), {"FASTSERVE_APP": "x:y"}).config.app == "a:b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 80", "fastserve.toml:1: unknown option 'prot'; did you mean 'port'?"),
        ("\nport = '80'", "fastserve.toml:2: port must be a whole number, not '80'"),
        ("port = true", "fastserve.toml:1: port must be a whole number, not True"),
        ("port = 70000", "fastserve.toml:1: port must be 0 to 65535, not 70000"),
        ("factory = 1", "fastserve.toml:1: factory must be true or false, not 1"),
        ("workers = 'many'", "fastserve.toml:1: workers: neither a whole number nor auto: 'many'"),
        ("timeout-body = 'soon'", "fastserve.toml:1: timeout-body: not a duration such as 30, 30s, 5m or 1h30m: 'soon'"),
        ("uds-permissions = 660", "fastserve.toml:1: uds-permissions must be octal text such as \"660\", not 660"),
        ("bind = [5]", "fastserve.toml:1: bind must be text, or several texts, not (5,)"),
        ("log-level = 'loud'", "fastserve.toml:1: log-level must be one of critical, error, warning, info, debug"),
        ("app_dir = '.'\napp-dir = '.'", "'app-dir' stands there twice"),
        ("[address]\nport = 1", "fastserve.toml: unknown option 'address'"),
        ("[tool.fastserve]\nport = 1", "[tool.fastserve] is for pyproject.toml; here options stand at the top"),
        ("port =", "fastserve.toml is not TOML: "),
    ],
)  # fmt: skip
def test_mistakes_in_a_file_are_one_line_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "fastserve.toml").write_text(text + "\n")
    with pytest.raises(ConfigError) as caught:
        config()
    assert message in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("FASTSERVE_PORT", "http", "the environment variable FASTSERVE_PORT: not a whole number: 'http'"),
        ("FASTSERVE_FACTORY", "maybe", "the environment variable FASTSERVE_FACTORY: neither true nor false: 'maybe'"),
        ("FASTSERVE_LOG_LEVEL", "loud", "the environment variable FASTSERVE_LOG_LEVEL must be one of critical, error"),
        ("FASTSERVE_PORT", "70000", "port must be 0 to 65535, not 70000"),
        ("PORT", "http", "the environment variable PORT must be 0 to 65535, not 'http'"),
        ("PORT", "70000", "the environment variable PORT must be 0 to 65535"),
        ("PORT", "٣", "the environment variable PORT must be 0 to 65535"),
        ("WEB_CONCURRENCY", "0", "the environment variable WEB_CONCURRENCY must be 1 to 1024, not '0'"),
    ],
)
def test_mistakes_in_the_environment_are_one_line_with_its_name(variable: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**{variable: value})
    assert str(caught.value).startswith(message)


def test_platform_variables() -> None:
    assert config(WEB_CONCURRENCY="3").workers == 3
    assert config(WEB_CONCURRENCY="").workers == 1
    assert config(WEB_CONCURRENCY="auto").workers_note.startswith("auto: ")
    assert config("-w", "2", WEB_CONCURRENCY="3").workers == 2
    assert config(WEB_CONCURRENCY="3", FASTSERVE_WORKERS="4").workers == 4
    assert (addresses(PORT="5000"), config(PORT="5000").note) == (["0.0.0.0:5000"], "PORT is set")
    assert addresses("--host", "::1", PORT="5000") == ["[::1]:5000"]
    assert addresses("--port", "1", PORT="5000") == ["127.0.0.1:1"]
    assert addresses("-b", "a:1", PORT="5000") == ["a:1"]
    assert addresses("--uds", "/a", PORT="5000") == ["unix:/a"]
    assert addresses(FASTSERVE_PORT="1", PORT="5000") == ["127.0.0.1:1"]
    assert addresses(FASTSERVE_HOST="::1", PORT="5000") == ["[::1]:5000"]


def test_addresses_of_several_sources_are_not_mixed(tmp_path: Path) -> None:
    file = tmp_path / "fastserve.toml"
    file.write_text('bind = ["a:1", "b:2"]\n')
    assert addresses() == ["a:1", "b:2"]
    assert addresses("--port", "9") == ["127.0.0.1:9"]
    assert addresses("-b", "c:3") == ["c:3"]
    assert addresses(FASTSERVE_BIND="c:3, d:4") == ["c:3", "d:4"]
    assert addresses(FASTSERVE_UDS="/x") == ["unix:/x"]
    assert addresses(PORT="5000") == ["0.0.0.0:5000"]
    file.write_text('host = "::1"\n')
    assert addresses("--port", "9") == ["[::1]:9"]
    assert addresses(PORT="5000") == ["[::1]:5000"]
    assert addresses("--uds", "/x") == ["unix:/x"]
    assert addresses("--uds", "/x", "--port", "9") == ["[::1]:9", "unix:/x"]


def test_kubernetes_links_are_not_options() -> None:
    """For a service that is called fastserve, every pod gets these."""
    found = gather(
        ("a:b",),
        {
            "FASTSERVE_PORT": "tcp://10.0.0.1:80",
            "FASTSERVE_SERVICE_HOST": "10.0.0.1",
            "FASTSERVE_PORT_80_TCP_PROTO": "tcp",
        },
    )
    assert [str(address) for address in found.config.addresses] == ["127.0.0.1:8000"]
    assert found.notes == ()


def test_misspelt_variables_are_noted() -> None:
    assert gather(("a:b",), {"FASTSERVE_WORKER": "2", "FASTSERVE_SIMD": "swar"}).notes == (
        "the environment variable FASTSERVE_WORKER is no option; did you mean FASTSERVE_WORKERS?",
    )


def test_several_texts_in_one_variable() -> None:
    assert config(FASTSERVE_BIND="a:1,b:2 c:3").bind == ("a:1", "b:2", "c:3")
    assert config(FASTSERVE_HEADER="X-A: 1, 2\nX-B: 3\n").header == ("X-A: 1, 2", "X-B: 3")


# --------------------------------------------------------------------------------------------------- print, reread


def test_print_config_is_toml_that_gives_the_same_config(tmp_path: Path) -> None:
    arguments = ("--port", "8080", "--header", 'X-A: "1"\\', "--uds-permissions", "660", "--timeout-body", "1m")
    first = config(*arguments, FASTSERVE_THREADS="5")
    text = print_config(first)
    table = tomllib.loads(text)
    assert set(table) <= {"app", *(name.replace("_", "-") for name in OPTIONS)}
    assert re.search(r"^port = 8080 +# --port$", text, re.MULTILINE)
    assert re.search(r"^threads = 5 +# FASTSERVE_THREADS$", text, re.MULTILINE)
    assert re.search(r"^backlog = 2048 +# default$", text, re.MULTILINE)
    assert re.search(r"^# uds is not set +# default$", text, re.MULTILINE)
    (tmp_path / "fastserve.toml").write_text(text)
    assert gather((), {}).config == first


def test_print_config_tells_what_switches_imply_and_why_there_are_so_many_workers() -> None:
    assert re.search(r"^timeout-graceful-shutdown = 5 +# implied by --reload$", print_config(config("--dev")), re.M)
    assert re.search(r"^reload = true +# implied by --dev$", print_config(config("--dev")), re.MULTILINE)
    assert re.search(r"^workers = \d+ +# --workers \(auto: .+\)$", print_config(config("-w", "auto")), re.MULTILINE)


def test_secrets_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIONS, "pid", Option("processes", "a secret", "text", optional=True, secret=True))
    assert "hunter2" not in print_config(config("--pid", "hunter2"))


def test_reread_takes_files_as_they_are_now(tmp_path: Path) -> None:
    (tmp_path / "fastserve.toml").write_text('threads = 5\nenv-file = "e"\n')
    (tmp_path / "e").write_text("NAME=old\n")
    first = gather(("a:b", "--backlog", "9"), {}).config
    (tmp_path / "fastserve.toml").write_text('threads = 6\nbacklog = 1\nenv-file = "e"\n')
    (tmp_path / "e").write_text("NAME=new\n")
    assert first.arguments is not None
    second = reread(first.arguments, {})
    assert (first.threads, second.threads, second.backlog) == (5, 6, 9)
    assert (first.variables, second.variables) == ({"NAME": "old"}, {"NAME": "new"})
    (tmp_path / "fastserve.toml").write_text("threads = -1\n")
    with pytest.raises(ConfigError, match=r"fastserve.toml:1: threads must be 0 to 4096, not -1"):
        reread(first.arguments, {})


def test_what_was_not_given_stays_out() -> None:
    assert parse(["a:b"]) == {"app": "a:b"}
