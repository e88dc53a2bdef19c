"""NiceGUI, a real ASGI application, in a real browser: clicks, and the server's own news, over a WebSocket that stays
alive.
"""

from __future__ import annotations

import pytest
from applications.browser import Page
from process.running import Running

APP = """
from fastapi import FastAPI
from nicegui import ui

app = FastAPI()


@ui.page("/")
def page():
    counted = {"clicks": 0, "ticks": 0}

    def more():
        counted["clicks"] += 1
        count.set_text(f"Python counted {counted['clicks']}")

    def tick():
        counted["ticks"] += 1
        news.set_text(f"ticked {counted['ticks']}")

    ui.button("more", on_click=more).props('id="more"')
    count = ui.label("nothing yet").props('id="count"')
    news = ui.label("no news").props('id="news"')
    ui.timer(0.2, tick)


ui.run_with(app)
"""


def test_clicks_and_news_over_a_websocket(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("nicegui")
    (home / "panel.py").write_text(APP)
    with Running("panel:app", "--port", "0", cwd=home) as server, Page() as page:
        page.open(f"http://127.0.0.1:{server.ready().port}/")
        page.wait_for("document.querySelector('#count')?.textContent === 'nothing yet'")
        page.wait_for("document.querySelector('#news').textContent.startsWith('ticked ')")
        for clicks in (1, 2, 3):
            page.click("#more")
            page.wait_for(f"document.querySelector('#count').textContent === 'Python counted {clicks}'")
        opened = page.seen("Network.webSocketHandshakeResponseReceived")
        assert [event["response"]["status"] for event in opened] == [101]
        frames = [event["response"]["payloadData"] for event in page.seen("Network.webSocketFrameReceived")]
        assert any("Python counted 3" in frame for frame in frames), frames[-5:]
        assert page.seen("Network.webSocketClosed") == []
        before = page.evaluate("document.querySelector('#news').textContent")
        page.wait_for(f"document.querySelector('#news').textContent !== {before!r}")  # it is alive
        assert page.faults() == []
        # The page is open while the server goes: its stream is told, and the stop is in time.
        assert server.stop() == 0, server.err
    assert "Traceback" not in server.err
