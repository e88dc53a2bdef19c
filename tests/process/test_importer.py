"""importer: references resolved, mistakes in one line, the application's own exceptions with its own traceback only."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastserve.errors import ConfigError
from fastserve.process.importer import ApplicationError, add_app_dir, load, takes_nothing

Write = Callable[..., str]
numbers = itertools.count()


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Write modules into tmp_path under a name nobody has used; "NAME" in a text becomes it. Undo what loading does."""
    path_before, modules_before = list(sys.path), set(sys.modules)
    name = f"importer_case_{next(numbers)}"

    def body(text: str, file: str = "NAME.py") -> str:
        target = tmp_path / file.replace("NAME", name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text.replace("NAME", name))
        return name

    yield body
    sys.path[:] = path_before
    for module in set(sys.modules) - modules_before:
        del sys.modules[module]


def refusal(reference: str, folder: Path, **more: bool) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(reference, app_dir=str(folder), **more)
    assert not isinstance(caught.value, ApplicationError)
    assert "\n" not in str(caught.value)
    return caught.value


def failure(reference: str, folder: Path, **more: bool) -> ApplicationError:
    with pytest.raises(ApplicationError) as caught:
        load(reference, app_dir=str(folder), **more)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert "importlib" not in caught.value.details and "fastserve" not in caught.value.details
    return caught.value


def test_module_and_attribute(write: Write, tmp_path: Path) -> None:
    name = write("app = 1\napplication = 2\nclass box:\n    class inner: app = 3")
    assert load(f"{name}:app", app_dir=str(tmp_path)) == 1
    assert load(f"{name}:application", app_dir=str(tmp_path)) == 2
    assert load(f"{name}:box.inner.app", app_dir=str(tmp_path)) == 3
    assert load(name, app_dir=str(tmp_path)) == 1


def test_bare_module_without_app_is_tried_for_application(write: Write, tmp_path: Path) -> None:
    assert load(write("application = 2"), app_dir=str(tmp_path)) == 2


def test_bare_module_with_neither(write: Write, tmp_path: Path) -> None:
    name = write("x = 1")
    assert str(refusal(name, tmp_path)) == f'module "{name}" has neither "app" nor "application"; name it: {name}:NAME'


def test_package_and_submodule(write: Write, tmp_path: Path) -> None:
    name = write("", "NAME/__init__.py")
    write("app = 5", "NAME/web/api.py")
    assert load(f"{name}.web.api:app", app_dir=str(tmp_path)) == 5


def test_object_is_taken_as_it_is() -> None:
    app = object()
    assert load(app) is app
    assert load(lambda: app, factory=True) is app


def test_app_dir_comes_first_once_and_as_absolute_path(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    add_app_dir(".")
    add_app_dir("")
    add_app_dir(str(tmp_path))
    assert sys.path[0] == str(tmp_path) and sys.path[1] != str(tmp_path)


def test_app_dir_that_is_not_there(tmp_path: Path) -> None:
    assert "there is no folder" in str(refusal("x:y", tmp_path / "nope"))


@pytest.mark.parametrize("reference", ["", ":", ":app", "a:", "a b:c", "a:b()", "a..b:c", "a:b.", "a:b:c", "1a:b"])
def test_reference_that_is_none(reference: str, tmp_path: Path) -> None:
    error = refusal(reference, tmp_path)
    assert str(error).startswith("an application is MODULE:APP") and error.exit_code == 2


@pytest.mark.parametrize(
    ("reference", "better"),
    [("shop/web.py:app", "shop.web:app"), ("./shop/web.py", "shop.web"), ("web.py:app", "web:app"), ("a/b:c", "a.b:c")],
)
def test_reference_that_is_a_file(reference: str, better: str, tmp_path: Path) -> None:
    assert f'try "{better}"' in str(refusal(reference, tmp_path))


def test_module_not_found(tmp_path: Path, write: Write) -> None:
    error = refusal("no_such_thing_at_all:app", tmp_path)
    assert str(error) == f'module "no_such_thing_at_all" not found in {tmp_path} or on sys.path'
    assert error.exit_code == 3


def test_module_not_found_suggests_a_close_one(tmp_path: Path, write: Write) -> None:
    name = write("app = 1")
    assert f'did you mean "{name}"?' in str(refusal(name.replace("case", "caze"), tmp_path))


def test_module_not_found_suggests_the_folder(tmp_path: Path, write: Write) -> None:
    name = write("app = 1", "src/NAME.py")
    assert f"did you mean --app-dir {tmp_path / 'src'}?" in str(refusal(name, tmp_path))


def test_submodule_not_found_suggests_a_close_one(tmp_path: Path, write: Write) -> None:
    name = write("", "NAME/__init__.py")
    write("app = 1", "NAME/views.py")
    error = str(refusal(f"{name}.vews:app", tmp_path))
    assert error == f'module "{name}.vews" not found; did you mean "{name}.views"?'


def test_submodule_of_a_module(tmp_path: Path, write: Write) -> None:
    name = write("app = 1")
    assert f'"{name}" is a module, not a package' in str(refusal(f"{name}.views:app", tmp_path))


def test_attribute_not_found_suggests(write: Write, tmp_path: Path) -> None:
    name = write("application = 1\nclass box: inner = 1")
    error = refusal(f"{name}:aplication", tmp_path)
    assert str(error) == f'module "{name}" has no attribute "aplication"; did you mean "application"?'
    assert error.exit_code == 3
    assert 'did you mean "application"?' in str(refusal(f"{name}:server", tmp_path))
    assert str(refusal(f"{name}:box.iner", tmp_path)).startswith(f'"box" of module "{name}" has no attribute "iner"')


def test_exception_in_the_module_shows_its_traceback_only(write: Write, tmp_path: Path) -> None:
    name = write("def connect():\n    raise ValueError('no database')\nconnect()")
    error = failure(f"{name}:app", tmp_path)
    assert str(error) == f'cannot import "{name}": ValueError: no database'
    assert error.details.splitlines()[1].endswith(f'{name}.py", line 3, in <module>')
    assert error.details.endswith("ValueError: no database\n")


def test_import_error_inside_the_module_is_the_applications(write: Write, tmp_path: Path) -> None:
    name = write("import no_such_thing_at_all")
    error = failure(f"{name}:app", tmp_path)
    assert "line 1, in <module>" in error.details and "no_such_thing_at_all" in str(error)


def test_module_that_imports_itself_wrongly_is_the_applications(write: Write, tmp_path: Path) -> None:
    name = write("from NAME import nothing")
    assert "line 1, in <module>" in failure(f"{name}:app", tmp_path).details


def test_import_error_in_a_parent_package_is_the_applications(write: Write, tmp_path: Path) -> None:
    name = write("import NAME.missing", "NAME/__init__.py")
    write("app = 1", "NAME/web.py")
    assert "__init__.py" in failure(f"{name}.web:app", tmp_path).details


def test_syntax_error_shows_the_line(write: Write, tmp_path: Path) -> None:
    name = write("app = (\n")
    error = failure(f"{name}:app", tmp_path)
    assert f'{name}.py", line 1' in error.details and "SyntaxError" in str(error)


def test_sys_exit_in_the_module_is_a_failure(write: Write, tmp_path: Path) -> None:
    name = write("import sys; sys.exit(0)")
    assert str(failure(name, tmp_path)) == f'cannot import "{name}": it called sys.exit(0)'


def test_keyboard_interrupt_in_the_module_passes(write: Write, tmp_path: Path) -> None:
    name = write("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load(name, app_dir=str(tmp_path))


def test_module_getattr_that_raises_is_the_applications(write: Write, tmp_path: Path) -> None:
    name = write("def __getattr__(name):\n    raise RuntimeError('lazy')")
    assert "RuntimeError: lazy" in str(failure(f"{name}:app", tmp_path))


def test_module_getattr_says_that_there_is_none(write: Write, tmp_path: Path) -> None:
    name = write("app = 1\ndef __getattr__(name):\n    raise AttributeError(f'module has no attribute {name!r}')")
    assert str(refusal(f"{name}:ap", tmp_path)) == f'module "{name}" has no attribute "ap"; did you mean "app"?'


@pytest.mark.parametrize("fault", ["(1).nothing", "(_ for _ in ()).throw(AttributeError(name))"])
def test_module_getattr_that_fails_is_the_applications(write: Write, tmp_path: Path, fault: str) -> None:
    """An AttributeError of what it calls is no answer to the question."""
    name = write(f"def __getattr__(name):\n    return find(name)\ndef find(name):\n    return {fault}")
    assert 'cannot read "app"' in str(failure(f"{name}:app", tmp_path))


def test_factory(write: Write, tmp_path: Path) -> None:
    name = write("def make(): return 7\nclass box:\n    @staticmethod\n    def make(): return 8")
    assert load(f"{name}:make", factory=True, app_dir=str(tmp_path)) == 7
    assert load(f"{name}:box.make", factory=True, app_dir=str(tmp_path)) == 8


def test_factory_that_raises(write: Write, tmp_path: Path) -> None:
    name = write("def make(): raise ValueError('no')")
    error = failure(f"{name}:make", tmp_path, factory=True)
    assert str(error) == f'the factory "{name}:make" failed: ValueError: no' and "in make" in error.details


def test_factory_whose_own_call_is_wrong(write: Write, tmp_path: Path) -> None:
    name = write("def make(): return open()")
    assert "TypeError" in str(failure(f"{name}:make", tmp_path, factory=True))


def test_factory_that_is_none(write: Write, tmp_path: Path) -> None:
    name = write("app = 1\ndef needs(x): pass\nasync def later(): pass")
    assert "cannot be called" in str(refusal(f"{name}:app", tmp_path, factory=True))
    assert "without arguments" in str(refusal(f"{name}:needs", tmp_path, factory=True))
    assert "async" in str(refusal(f"{name}:later", tmp_path, factory=True))


def test_function_without_parameters_is_no_application() -> None:
    def make() -> None: ...
    def wsgi(environ: object, start_response: object) -> None: ...
    def anything(*args: object) -> None: ...

    assert takes_nothing(make)
    assert not any(map(takes_nothing, (wsgi, anything, len, SimpleNamespace(), SimpleNamespace)))
