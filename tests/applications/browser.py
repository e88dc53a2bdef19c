"""A real browser for tests: headless Chromium, spoken to over its DevTools protocol.

Called by: the tests of applications that live in a page. `chromium` is Debian's; nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.request import urlopen

from websockets.sync.client import connect

LIMIT = 60.0  # seconds, for anything: a browser starts slowly on a busy machine


class Page:
    """The one page of a Chromium of its own, with a profile of its own. Use it with `with`."""

    def __init__(self) -> None:
        found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        assert found, "no Chromium here: apt-get install chromium"
        self._stack = contextlib.ExitStack()
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._errors = self._stack.enter_context(Path(self._profile.name, "stderr").open("w+"))  # noqa: SIM115
        self._ids = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [
                found,
                "--headless=new",
                "--no-sandbox",  # tests may run as root
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--no-first-run",
                "--no-proxy-server",
                "--remote-debugging-port=0",
                f"--user-data-dir={self._profile.name}",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )
        try:
            self._devtools = self._stack.enter_context(connect(self._address(), max_size=None, open_timeout=LIMIT))
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def _address(self) -> str:
        """The DevTools address of the page that Chromium has opened."""
        errors = Path(self._profile.name, "stderr")
        listening: re.Match[str] | None = None
        until = time.monotonic() + LIMIT
        while listening is None:
            assert self.process.poll() is None and time.monotonic() < until, errors.read_text()
            listening = re.search(r"DevTools listening on ws://([\d.]+:\d+)/", errors.read_text())
            time.sleep(0.05)
        while True:
            with urlopen(f"http://{listening[1]}/json/list", timeout=LIMIT) as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            if pages:
                return str(pages[0]["webSocketDebuggerUrl"])
            assert time.monotonic() < until, "Chromium opened no page"
            time.sleep(0.05)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol, and its result. Events that come meanwhile are kept in `events`."""
        number = next(self._ids)
        self._devtools.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._devtools.recv(timeout=LIMIT))
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])
            self.events.append(message)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript, as JSON has it."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def wait_for(self, expression: str, limit: float = LIMIT) -> Any:
        """Evaluate until it is true; its value."""
        until = time.monotonic() + limit
        while not (value := self.evaluate(expression)):
            if time.monotonic() > until:
                raise AssertionError(
                    f"{expression}: not within {limit} s\n{self.faults()}\n"
                    + str(self.evaluate("document.body && document.body.outerHTML"))[:4000]
                )
            time.sleep(0.05)
        return value

    def click(self, selector: str) -> None:
        """A click of the mouse in the middle of an element, as a hand would do it."""
        self.wait_for(f"!!document.querySelector({selector!r})")
        self.evaluate(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        box = self.evaluate(
            f"(r => ({{x: r.x + r.width / 2, y: r.y + r.height / 2}}))"
            f"(document.querySelector({selector!r}).getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **box)

    def seen(self, method: str, fits: Callable[[dict[str, Any]], bool] = lambda _: True) -> list[dict[str, Any]]:
        """Parameters of the events of this name so far."""
        self.evaluate("0")  # takes in what has come
        return [event["params"] for event in self.events if event.get("method") == method and fits(event["params"])]

    def faults(self) -> list[str]:
        """What went wrong in the page: exceptions, failed loads, errors in its console."""
        thrown = [str(event["exceptionDetails"]) for event in self.seen("Runtime.exceptionThrown")]
        failed = [str(event) for event in self.seen("Network.loadingFailed", lambda event: not event.get("canceled"))]
        logged = [str(event["entry"]) for event in self.seen("Log.entryAdded") if event["entry"]["level"] == "error"]
        return thrown + failed + logged

    def close(self) -> None:
        with contextlib.suppress(Exception):  # a browser that has died already
            self.call("Browser.close")
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self._stack.close()
        self._profile.cleanup()

    def __enter__(self) -> Page:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
