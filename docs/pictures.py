"""Make the pictures of the documentation: docs/pictures/*.png, of a server that really runs.

    python docs/pictures.py            all of them
    python docs/pictures.py lens-dark  some

examples/shop.py is served with the lens on, clients ask it for a second and a half, one of them for /report; the recording
becomes a page, which headless Chromium shows (tests/applications/browser.py). It needs Chromium and textual; figures differ
from run to run.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from applications.browser import Page  # noqa: E402
from process.running import RUNTIME, Running  # noqa: E402

from fastserve.lens import page as pages  # noqa: E402
from fastserve.lens.model import Model, build  # noqa: E402
from fastserve.lens.recording import Recording  # noqa: E402

SECONDS = 1.5
REPORT_AT = 0.5  # seconds after the start
CLIENTS = 14
WIDE, TALL = 1440, 960


async def visit(url: str) -> None:
    """What the shop's customers do, each on a connection of its own, and what its owner does once."""
    host, port = url.removeprefix("http://").split(":")

    async def ask(stream: tuple[asyncio.StreamReader, asyncio.StreamWriter], path: str) -> None:
        reader, writer = stream
        writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        assert length and b" 200 " in head, head
        await reader.readexactly(int(length[1]))

    async def customer(number: int) -> None:
        await asyncio.sleep(0.02 * number)
        stream = await asyncio.open_connection(host, int(port))
        until = time.monotonic() + SECONDS - 0.02 * number
        while time.monotonic() < until:
            await ask(stream, f"/items/{number * 7 % 90 + 1}")
            await asyncio.sleep(0.02 + 0.008 * (number % 5))
        stream[1].close()

    async def owner() -> None:
        await asyncio.sleep(REPORT_AT)
        stream = await asyncio.open_connection(host, int(port))
        await ask(stream, "/report")
        stream[1].close()

    await asyncio.gather(owner(), *(customer(number) for number in range(CLIENTS)))


def recorded(look: Callable[[int, str], Any] | None = None) -> tuple[Recording, Any]:
    """A recording of the shop, and what `look(pid, url)` saw while it was visited."""
    with Running("examples.shop:app", "--port", "0", "--workers", "2", "--lens", "full", cwd=ROOT) as server:
        url = f"http://127.0.0.1:{server.ready().port}"
        asyncio.run(visit(url))
        seen = look(server.process.pid, url) if look is not None else None
        recording = Recording.take(server.process.pid)
        server.stop()
    return recording, seen


def victim(model: Model) -> str:
    """A request that paid for the report: it waited longest in the kernel, or else to be run."""
    others = [one for one in model.requests if one.route != "/report"]
    return max(others, key=lambda one: one.late + one.scheduled + (one.kernel_wait or 0) // 2).id


class Camera:
    def __init__(self, page: Page) -> None:
        self.page = page

    def take(
        self, file: Path, url: str, theme: str, ready: str, act: str = "", tall: int = TALL, wide: int = WIDE
    ) -> None:
        scheme = [
            {"name": "prefers-color-scheme", "value": theme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.page.call("Emulation.setEmulatedMedia", features=scheme)
        self.page.call("Emulation.setDeviceMetricsOverride", width=wide, height=tall, deviceScaleFactor=1, mobile=False)
        self.page.open("about:blank")
        self.page.open(url)
        self.page.wait_for(ready)
        if act:
            self.page.evaluate(act)
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        shot = self.page.call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(shot["data"]))
        assert self.page.faults() == [], self.page.faults()
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size // 1000} kB")


DRAWN = "document.documentElement?.dataset.drawn === 'yes'"
TO_THE_ANSWER = """
for (let step = 0; step < 40; step++) {
  if (/nobody looks|scheduling delay/.test(document.querySelector('#player-says').textContent)) break;
  document.querySelector('#player-next').click();
}
"""


def lens(camera: Camera, wanted: list[str]) -> None:
    recording, _ = recorded()
    model = build(recording)
    with tempfile.TemporaryDirectory() as home:
        file = Path(home, "shop.html")
        file.write_text(pages.render(model, with_source=True, strip_paths=True, title="shop"), encoding="utf-8")
        address = f"{file.as_uri()}#{victim(model)}"
        for theme in ("light", "dark"):
            if f"lens-{theme}" in wanted:
                camera.take(PICTURES / f"lens-{theme}.png", address, theme, DRAWN)
        if "lens-step" in wanted:
            camera.take(PICTURES / "lens-step.png", f"{address}&step=1", "light", DRAWN, TO_THE_ANSWER)


def top(camera: Camera, wanted: list[str]) -> None:
    from fastserve.lens.screen import Screen

    def look(pid: int, url: str) -> str:
        async def run() -> str:
            app = Screen(lambda: Recording.take(pid), every=0.4)
            async with app.run_test(size=(124, 27)) as pilot:
                visiting = asyncio.create_task(visit(url))
                await asyncio.sleep(REPORT_AT + 0.45)  # two looks; the report holds a loop
                await pilot.pause()
                picture = app.export_screenshot(title="fastserve top")
                await visiting
                return picture

        return asyncio.run(run())

    _, picture = recorded(look)
    with tempfile.TemporaryDirectory() as home:
        file = Path(home, "top.svg")
        loads = re.compile(r"@font-face\s*\{[^}]*\}")  # its fonts: the machine has some
        file.write_text(loads.sub("", picture), encoding="utf-8")
        drawn = "document.documentElement?.tagName === 'svg'"
        camera.take(PICTURES / "top.png", file.as_uri(), "dark", drawn, tall=640, wide=1240)


def lessons(camera: Camera, wanted: list[str]) -> None:
    from fastserve.lens.learn import serving

    async def run() -> None:
        async with serving() as url:
            await asyncio.to_thread(
                camera.take,
                PICTURES / "learn.png",
                f"{url}/lesson/lock",
                "light",
                "document.readyState === 'complete' && document.querySelector('#predict')",
                """(async () => {
                  document.querySelectorAll('.option input')[1].click();
                  document.querySelector('#predict button').click();
                  const frame = document.querySelector('#picture');
                  const pause = (ms) => new Promise((go) => setTimeout(go, ms));
                  while (frame.contentDocument?.documentElement?.dataset.drawn !== 'yes') await pause(50);
                  await pause(300);
                  window.scrollTo(0, 0);
                })()""",
                1250,
            )

    asyncio.run(run())


MAKERS = {("lens-light", "lens-dark", "lens-step"): lens, ("top",): top, ("learn",): lessons}


def main(wanted: list[str]) -> None:
    PICTURES.mkdir(exist_ok=True)
    os.environ["XDG_RUNTIME_DIR"] = RUNTIME  # where Running's servers are found
    os.environ.setdefault("TEXTUAL_COLOR_SYSTEM", "truecolor")
    with Page() as page:
        camera = Camera(page)
        for names, make in MAKERS.items():
            some = [name for name in names if not wanted or name in wanted]
            if some:
                make(camera, some)


if __name__ == "__main__":
    main(sys.argv[1:])
