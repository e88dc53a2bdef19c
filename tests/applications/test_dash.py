"""Dash, a real WSGI application, in a real browser: the page comes alive, clicks go to Python and back; in threads and on
the loop.
"""

from __future__ import annotations

import pytest
from applications.browser import Page
from process.running import Running

APP = """
from dash import Dash, Input, Output, dcc, html

app = Dash(__name__)
app.layout = html.Div([
    html.Button("more", id="more", n_clicks=0),
    html.P("", id="count"),
    html.P("", id="ticks"),
    dcc.Interval(id="clock", interval=200, max_intervals=3),
])


@app.callback(Output("count", "children"), Input("more", "n_clicks"))
def count(clicks):
    return f"Python counted {clicks}"


@app.callback(Output("ticks", "children"), Input("clock", "n_intervals"))
def tick(ticks):
    return f"ticked {ticks}"


server = app.server
"""


@pytest.mark.parametrize("threads", ["4", "0"], ids=["threads", "inline"])
def test_a_click_goes_round(tmp_path_factory: pytest.TempPathFactory, threads: str) -> None:
    home = tmp_path_factory.mktemp("dash")
    (home / "board.py").write_text(APP)
    with Running("board:server", "--port", "0", "--threads", threads, cwd=home) as server, Page() as page:
        url = f"http://127.0.0.1:{server.ready().port}/"
        page.open(url)
        page.wait_for("document.querySelector('#count')?.textContent === 'Python counted 0'")
        for clicks in (1, 2, 3):
            page.click("#more")
            page.wait_for(f"document.querySelector('#count').textContent === 'Python counted {clicks}'")
        page.wait_for("document.querySelector('#ticks').textContent === 'ticked 3'")
        updates = page.seen(
            "Network.responseReceived", lambda event: "/_dash-update-component" in event["response"]["url"]
        )
        assert len(updates) >= 4 and {update["response"]["status"] for update in updates} == {200}
        assert page.faults() == []
        assert server.stop() == 0, server.err
    assert "Traceback" not in server.err
