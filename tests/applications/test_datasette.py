"""Datasette, a real ASGI application: a page, JSON, SQL, a streamed CSV, a client that leaves it, static files."""

from __future__ import annotations

import csv
import io
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from process.running import Running

ROWS = 20_000

APP = """
from datasette.app import Datasette

app = Datasette(["cities.db"], settings={"default_page_size": 50, "max_csv_mb": 0}).app()
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    home = tmp_path_factory.mktemp("datasette")
    with sqlite3.connect(home / "cities.db") as database:
        database.execute("create table city (id integer primary key, name text, people integer)")
        database.executemany("insert into city values (?, ?, ?)", ((n, f"Städtchen {n}", n * 7) for n in range(ROWS)))
    database.close()
    (home / "data_app.py").write_text(APP)
    with Running("data_app:app", "--port", "0", cwd=home) as server:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.ready().port}", timeout=60) as client:
            yield client
        assert server.stop() == 0, server.err
        # One client left in the middle: Datasette tells of it in its own words, and nothing of ours fails.
        assert "left behind" not in server.err and "ERROR" not in server.err, server.err


def test_pages(client: httpx.Client) -> None:
    page = client.get("/cities/city")
    assert page.status_code == 200 and "Städtchen 7" in page.text and f"{ROWS:,}" in page.text
    assert client.get("/nothing").status_code == 404


def test_json(client: httpx.Client) -> None:
    rows = client.get("/cities/city.json", params={"_shape": "array", "_size": "3"}).json()
    assert rows == [{"id": n, "name": f"Städtchen {n}", "people": n * 7} for n in range(3)]
    asked = client.get("/cities.json", params={"sql": "select count(*) as n from city", "_shape": "array"})
    assert asked.json() == [{"n": ROWS}]


def test_csv_is_streamed(client: httpx.Client) -> None:
    with client.stream("GET", "/cities/city.csv", params={"_stream": "on", "_size": "max"}) as answer:
        assert answer.status_code == 200 and answer.headers["transfer-encoding"] == "chunked"
        answer.read()
    rows = list(csv.reader(io.StringIO(answer.content.decode())))
    assert len(rows) == ROWS + 1 and rows[0] == ["id", "name", "people"]
    assert rows[-1] == [str(ROWS - 1), f"Städtchen {ROWS - 1}", str((ROWS - 1) * 7)]


def test_a_client_that_leaves_a_stream_costs_nobody_anything(client: httpx.Client) -> None:
    with (
        httpx.Client(base_url=client.base_url, timeout=60) as other,
        other.stream("GET", "/cities/city.csv", params={"_stream": "on", "_size": "max"}) as answer,
    ):
        next(answer.iter_raw())
    assert client.get("/cities.json").status_code == 200


def test_static(client: httpx.Client) -> None:
    import datasette

    file = Path(datasette.__file__).parent / "static" / "app.css"
    answer = client.get("/-/static/app.css")
    assert answer.status_code == 200 and answer.content == file.read_bytes()
    assert answer.headers["content-type"].startswith("text/css")
