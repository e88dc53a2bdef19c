"""Where a running server is found: the directory, its files, who is believed, and what is cleared away."""

from __future__ import annotations

import json
import mmap
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastserve.errors import LensError
from fastserve.lens.recording import Recording, running
from fastserve.process import lensfile
from fastserve.process.config import Config
from fastserve.process.lensfile import Registration
from fastserve.process.shared import Shared
from fastserve.protocol import Board


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime directory of our own, and none of the machine's."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    only = tmp_path / "fastserve"
    monkeypatch.setattr(lensfile, "candidates", lambda: [only])
    monkeypatch.setattr(lensfile, "directories", lambda: [only])
    return only


@pytest.fixture
def register(runtime: Path) -> Any:
    made: list[Shared] = []

    def register_(app: str = "shop.web:app", **options: Any) -> Shared:
        config = Config(app=app, **options)
        made.append(Shared(config, 2))
        made[-1].register(config, list(config.addresses))
        return made[-1]

    yield register_
    for shared in made:
        shared.close()


def written(runtime: Path) -> list[Path]:
    return sorted(runtime.glob("*.server"))


def test_the_directory_and_its_files_are_for_this_user_alone(runtime: Path, register: Callable[..., Shared]) -> None:
    shared = register()
    (path,) = written(runtime)
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700 and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in runtime.iterdir()] == [path.name]  # nothing is left beside it
    shared.close()
    assert written(runtime) == []


def test_a_directory_that_others_may_read_was_made_for_something_else(
    runtime: Path, register: Callable[..., Shared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's sockets may be in it: it is left as it is, and the next place taken."""
    runtime.mkdir(mode=0o755)
    runtime.chmod(0o755)
    monkeypatch.setattr(lensfile, "candidates", lambda: [tmp_path / "none" / "fastserve", runtime, tmp_path / "next"])
    register()
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o755 and list(runtime.iterdir()) == []
    assert stat.S_IMODE((tmp_path / "next").stat().st_mode) == 0o700 and len(written(tmp_path / "next")) == 1


def test_the_places_that_systemd_and_a_session_provide_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/shop:/run/other")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert lensfile.candidates()[:2] == [Path("/run/shop/fastserve"), Path("/run/user/7/fastserve")]
    monkeypatch.setenv("RUNTIME_DIRECTORY", "relative")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    assert lensfile.candidates() == [Path("/run/user/7/fastserve"), Path("/tmp/fastserve-7")]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert lensfile.candidates() == [Path("/run/fastserve"), Path("/tmp/fastserve-0")]


def test_a_symbolic_link_is_no_directory_of_ours(
    runtime: Path, register: Callable[..., Shared], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    runtime.symlink_to(elsewhere)
    register()
    assert list(elsewhere.iterdir()) == [] and "will not find this server" in caplog.text
    assert lensfile.registrations() == []


def test_a_directory_of_somebody_else_is_not_used(
    runtime: Path, register: Callable[..., Shared], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    register()
    assert list(runtime.iterdir()) == [] and "somebody else's" in caplog.text


def test_a_user_cannot_name_the_process_of_another(runtime: Path, register: Callable[..., Shared]) -> None:
    """Root believes the file of a user about processes of that user only; a user is not shown what he could not open."""
    register()
    (path,) = written(runtime)
    path.write_text(json.dumps({**json.loads(path.read_text()), "pid": 1, "started": 0}))
    root = os.geteuid() == 0
    if root:
        os.chown(path, 12345, 12345)
        os.chown(runtime, 12345, 12345)
    assert lensfile.registrations() == []
    if root:
        os.chown(path, 0, 0)
        os.chown(runtime, 0, 0)
        assert [found.pid for found in lensfile.registrations()] == [1]


def test_a_file_that_others_could_write_is_not_believed(runtime: Path, register: Callable[..., Shared]) -> None:
    register()
    (path,) = written(runtime)
    path.chmod(0o666)
    assert lensfile.registrations() == []
    path.chmod(0o600)
    assert len(lensfile.registrations()) == 1
    runtime.chmod(0o777)
    assert lensfile.registrations() == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": 1}', "[" * 100_000, '"' + "x" * 3_000_000 + '"'])
def test_a_file_that_makes_no_sense_is_passed_over(runtime: Path, register: Callable[..., Shared], text: str) -> None:
    register()
    (runtime / "1.server").write_text(text)
    (runtime / "1.server").chmod(0o600)
    (runtime / "2.server").mkdir()
    os.mkfifo(runtime / "3.server", 0o600)
    assert [found.pid for found in lensfile.registrations()] == [os.getpid()]


def test_what_dead_servers_left_is_cleared_by_the_next(runtime: Path, register: Callable[..., Shared]) -> None:
    shared = register("a:b")
    (path,) = written(runtime)
    said = json.loads(path.read_text())
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    def leave(name: str, **changes: Any) -> None:
        (runtime / name).write_text(json.dumps({**said, **changes}))
        (runtime / name).chmod(0o600)

    leave(f"{ended.pid}.dead.server", pid=ended.pid)  # its process is gone
    leave(f"{os.getppid()}.used.server", pid=os.getppid(), started=1)  # its id was used again
    leave(f"{ended.pid}.part.server.77.abcd", pid=ended.pid)  # it died while it wrote
    (runtime / "notes.txt").write_text("not ours")
    assert len(written(runtime)) == 3 and [found.name for found in lensfile.registrations()] == ["a:b"]
    register("c:d")
    assert {found.name for found in lensfile.registrations()} == {"a:b", "c:d"}
    assert len(list(runtime.iterdir())) == 3 and (runtime / "notes.txt").exists()
    shared.close()


def test_a_child_of_a_server_does_not_remove_its_file(runtime: Path, register: Callable[..., Shared]) -> None:
    shared = register()
    pid = os.fork()
    if pid == 0:
        shared.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert len(written(runtime)) == 1


def test_servers_are_found_by_name_by_module_and_by_pid(runtime: Path, register: Callable[..., Shared]) -> None:
    with pytest.raises(LensError, match="no server of fastserve runs here") as nobody:
        lensfile.find()
    assert str(runtime) in str(nobody.value)
    register("shop.web:app", name="shop")
    assert {lensfile.find(target).name for target in (None, "shop", os.getpid(), str(os.getpid()))} == {"shop"}
    register("news.web:app")
    assert lensfile.find("news.web").name == lensfile.find("news.web:app").name == "news.web:app"
    with pytest.raises(LensError, match="2 servers run here; say which: ") as two:
        lensfile.find()
    assert "shop (pid" in str(two.value) and "news.web:app (pid" in str(two.value)
    with pytest.raises(LensError, match=r"no server called 'web'; there are: shop"):
        lensfile.find("web")
    with pytest.raises(LensError, match="no server with pid 1; there are: shop"):
        lensfile.find(1)
    with pytest.raises(LensError, match="2 servers are in process"):
        lensfile.find(os.getpid())
    register("other:app", name="shop")
    with pytest.raises(LensError, match="2 servers are called 'shop'; say which by its pid"):
        lensfile.find("shop")


def test_a_worker_leads_to_its_server(register: Callable[..., Shared]) -> None:
    register()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert lensfile.find(child.pid).pid == os.getpid()
    finally:
        child.communicate()


def test_nothing_is_registered_with_the_lens_off(runtime: Path, register: Callable[..., Shared]) -> None:
    before = set(os.listdir("/proc/self/fd"))
    shared = register(lens="off")
    assert shared.lens is None and shared.mode == "off" and not runtime.exists()
    memfds = [os.readlink(f"/proc/self/fd/{fd}") for fd in set(os.listdir("/proc/self/fd")) - before if _open(fd)]
    assert not [name for name in memfds if "memfd" in name]


def _open(descriptor: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{descriptor}")


def test_nobody_can_shrink_the_memory_of_others(register: Callable[..., Shared]) -> None:
    """A mapping that was cut short kills whoever touches it."""
    register()
    for what in ("board", "lens"):
        descriptor = lensfile.find().open(what, writing=True)
        for size in (0, 1 << 30):
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, size)
        os.close(descriptor)


@pytest.mark.parametrize(
    "changes",
    [
        {"layout": []},
        {"layout": {}},
        {"layout": {"seats": "many"}},
        {"seat_bytes": -1},
        {"seat_bytes": 10**12},
        {"seats_at": 10**30},
        {"seats": 10**9},
        {"flights": 10**9},
        {"flights_at": 10**9},
        {"seat": []},
        {"seat": {"pid": [10**9, "i"]}},
        {"seat": {"pid": [0, "nonsense"]}},
        {"seat": {}},
        {"flight": {}},
    ],
)
def test_a_registration_that_lies_is_one_line(
    runtime: Path, register: Callable[..., Shared], changes: dict[str, Any]
) -> None:
    shared = register()
    shared.board[0].pid, shared.board[0].state = os.getpid(), 2
    (path,) = written(runtime)
    said = json.loads(path.read_text())
    for name, value in changes.items():
        where = said if name in said else said["layout"]
        where[name] = value
    path.write_text(json.dumps(said))
    with pytest.raises(LensError) as caught:
        Recording.take()
    assert "\n" not in str(caught.value)
    running()  # passes over it


def test_memory_that_its_server_has_closed_is_not_mistaken(runtime: Path, register: Callable[..., Shared]) -> None:
    register()
    (path,) = written(runtime)
    said = json.loads(path.read_text())
    with open("/dev/null", "rb") as other:
        path.write_text(json.dumps({**said, "fds": {"board": other.fileno(), "lens": -1}}))
        found = lensfile.find()
        with pytest.raises(LensError, match="has closed its board"):
            found.open("board")
        assert found.open("lens") == -1


def test_without_nameless_files_the_memory_has_a_path(
    runtime: Path, register: Callable[..., Shared], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    shared = register()
    names = sorted(path.name.rpartition(".")[2] for path in runtime.iterdir())
    assert names == ["board", "lens", "server"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in runtime.iterdir())
    shared.board[0].pid = 4242
    found = lensfile.find()
    descriptor = found.open("board")
    layout = found.layout
    seat = os.pread(descriptor, layout["seat_bytes"], layout["seats_at"])
    os.close(descriptor)
    assert lensfile.figures(seat, 0, layout)["pid"] == 4242
    shared.close()
    assert list(runtime.iterdir()) == []


def test_no_shared_memory_at_all_is_a_warning(
    runtime: Path, register: Callable[..., Shared], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server serves without a lens."""

    def none(what: str) -> tuple[int, str]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(lensfile, "memory", none)
    shared = register()
    assert shared.lens is None and len(shared.board) == 2 and not runtime.exists()
    assert "the lens is off: there is no shared memory for it: [Errno 24] Too many open files" in caplog.text


def test_the_bytes_of_a_board_read_as_the_board_does() -> None:
    """Every figure of layout() against the attribute of the same name."""
    board = Board(3)
    seat = board[1]
    seat.pid, seat.slot, seat.state, seat.generation, seat.started_ns = 77, 2, 2, 5, time.monotonic_ns()
    board.ping(1)
    layout = board.layout()
    at = layout["seats_at"] + layout["seat_bytes"]
    found = lensfile.figures(bytes(board.memory[at : at + layout["seat_bytes"]]), 1, layout)
    running = found.pop("running")
    assert running == -1 and {name: getattr(seat, name) for name in found} == found
    assert found["pid"] == 77 and found["pokes"] == 1 and len(found["latency"]) == 15
    board.close()


def test_requests_in_flight_are_shown_without_their_queries() -> None:
    board = Board(1)
    layout = board.layout()
    data = bytearray(board.memory[layout["seats_at"] : layout["seats_at"] + layout["seat_bytes"]])

    def put(index: int, name: str, value: bytes) -> None:
        start = layout["flights_at"] + index * layout["flight_bytes"] + layout["flight"][name][0]
        data[start : start + len(value)] = value

    for index, text in ((3, b"GET /a?password=x"), (255, b"GET /\xff" + b"x" * 75)):
        put(index, "since_ns", (1000 + index).to_bytes(8, "little"))
        put(index, "text", text)
        put(index, "length", (200 if index == 255 else len(text)).to_bytes(2, "little"))
    put(3, "request", b"\x07\0\0\0")
    put(3, "state", b"\x03")
    first, last = lensfile.flights(bytes(data), layout)
    assert (first["index"], first["text"], first["request"], first["state"], first["since_ns"]) == (
        3,
        "GET /a",
        7,
        3,
        1003,
    )
    assert last["text"].startswith("GET /\\xffxxx") and last["request"] == 0
    board.close()


def test_shared_memory_is_the_same_for_all(register: Callable[..., Shared]) -> None:
    shared = register(lens="sample:50")
    assert shared.lens is not None and shared.mode == "sample:50" and not shared.switched()
    descriptor = lensfile.find().open("lens")
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as view:
        area = shared.lens.area(1)
        area.start(1, 4242, 1)
        begin = shared.lens.area_size
        assert view[begin : begin + 8] == b"FSLENS\0\1"
        area.write(16, 5)
        assert int.from_bytes(view[begin + 72 : begin + 80], "little") == 1
    os.close(descriptor)


def test_a_registration_is_of_the_process_that_makes_it() -> None:
    found = Registration.of_this_process(
        name="a",
        argv=[],
        addresses=[],
        version="1",
        fds={},
        paths={},
        area_bytes=1,
        layout={},
    )
    assert found.pid == os.getpid() and found.alive() and not found.place
    found.started += 1
    assert not found.alive()
