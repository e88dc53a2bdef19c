"""Memory of idle connections: what a server holds for each, after a browser's GET and a POST of 64 KB on it.

Called by __main__ (the verb `idle`). Calls servers (start, stop) and cpu.rss_bytes. The connections are this process's own;
a descriptor each is needed on both sides (`ulimit -n`). The first connections are not counted: they fill the pools and the
arenas that a server makes once. What the kernel holds for a socket is in nobody's resident memory, and is not in the
figures.
"""

import os
import resource
import socket
import time
from pathlib import Path

from . import cpu, load, report, servers
from .cases import CASES
from .progress import Progress

ROWS = ("fastserve", "fastserve-transport", "fastserve-asgi", "hyper", "uvicorn", "granian")
UNCOUNTED = 500  # connections opened before the first look
SPARE = 200  # descriptors for everything else
AIMS = {"fastserve": 1024, "fastserve-transport": 2560}
SETTLE_S = 2.0
OPEN_S = 0.0006  # about: opening one connection and using it


def raise_limit(connections: int) -> int:
    """Raise our own limit of descriptors as far as it may be; returns how many connections can be had."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(connections, hard - SPARE - UNCOUNTED)


def use(port: int, connection: socket.socket) -> None:
    """A browser's GET and a POST of 64 KB, each answered in full before the next."""
    with connection.makefile("rb") as answers:
        for name in ("browser", "echo-64k"):
            case = CASES[name]
            connection.sendall(case.request(f"{servers.HOST}:{port}"))
            answer = servers._read_answer(answers)
            if answer.status != 200 or not case.is_answered_by(answer.body):
                raise servers.ServerError(f"answered {name} with {answer.status}")


def weigh(name: str, connections: int) -> float:
    """Bytes of resident memory by which the server grows per idle connection."""
    running = servers.start(servers.SERVERS[name])
    opened: list[socket.socket] = []
    try:

        def open_to(count: int) -> int:
            while len(opened) < count:
                opened.append(socket.create_connection((servers.HOST, running.port), timeout=servers.ANSWER_S))
                use(running.port, opened[-1])
            time.sleep(SETTLE_S)
            running.must_live()
            return cpu.rss_bytes(running.pid)

        before = open_to(UNCOUNTED)
        after = open_to(UNCOUNTED + connections)
        return (after - before) / connections
    except OSError as error:
        raise servers.ServerError(f"{name}, after {len(opened)} connections: {error}") from error
    finally:
        for connection in opened:
            connection.close()
        running.stop()


def weigh_s(connections: int) -> float:
    """How long one takes, about."""
    return 1 + 2 * SETTLE_S + OPEN_S * (UNCOUNTED + connections)


def main(names: list[str], connections: int, folder: Path | None, say: Progress) -> int:
    """Weigh each; print a table; keep it with a result if there is one. 1 if nothing could be weighed."""
    wanted, connections = connections, raise_limit(connections)
    if connections < 1:
        raise load.LoadError(f"ulimit -n is {os.sysconf('SC_OPEN_MAX')}: too few descriptors for idle connections")
    if connections < wanted:
        say(f"only {connections} connections: ulimit -n allows no more")
    each_s = weigh_s(connections)
    say.plan(each_s * len(names))
    rows: list[dict[str, str | int]] = []
    for name in names:
        try:
            with say.step(f"idle connections of {name}", each_s):
                servers.SERVERS[name].version()
                held = weigh(name, connections)
        except servers.ServerError as error:
            say(f"{name}: {error}")
            rows.append({"server": name, "bytes per connection": "", "aim at most": "", "": str(error)})
            continue
        aim = AIMS.get(name)
        verdict = "" if aim is None else "met" if held <= aim else f"**missed by {held / aim - 1:.0%}**"
        rows.append({"server": name, "bytes per connection": f"{held:.0f}", "aim at most": aim or "", "": verdict})
        say(f"{name:20} {held:8.0f} bytes per idle connection")
    note = (
        f"{connections:,} connections, each idle after a browser's GET and a POST of 64 KB; growth of the "
        f"server's resident memory "
        f"per connection, after the first {UNCOUNTED}."
    )
    if folder is not None:
        report.keep_extra(folder, "idle", "Memory of idle connections", [note], rows)
    return 0 if any(row["bytes per connection"] for row in rows) else 1
