"""pytest_plugin: fixtures that serve an application, for every project that has pytest and us installed.

Room: the top. Called by: pytest, by the entry point `pytest11`. Calls: testing, when a fixture is used: pytest loads this
module for everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fastserve.testing import LensServer, TestClient

__all__ = ["fastserve_client", "fastserve_lens", "fastserve_server"]


@pytest.fixture
def fastserve_client() -> Iterator[Callable[..., TestClient]]:
    """`fastserve_client(app, **options)`: a fastserve.testing.TestClient, entered. It is left when the test ends."""
    from fastserve.testing import TestClient

    with ExitStack() as stack:

        def make(app: Any, **options: Any) -> TestClient:
            client = TestClient(app, **options)
            stack.callback(client.close)
            return stack.enter_context(client)

        yield make


@pytest.fixture
def fastserve_server() -> Iterator[Callable[..., str]]:
    """`fastserve_server(app, **options)`: the URL of a fastserve.testing.live_server that ends with the test."""
    from fastserve.testing import live_server

    with ExitStack() as stack:
        yield lambda app, **options: stack.enter_context(live_server(app, **options))


@pytest.fixture
def fastserve_lens() -> Iterator[Callable[..., LensServer]]:
    """`fastserve_lens(app, no_slice_over=0.05, **options)`: a fastserve.testing.lens_server that ends with the test.

    `no_slice_over`: seconds; the test fails if anything that a request did held the loop for longer, and says where.
    """
    from fastserve.testing import lens_server

    servers: list[tuple[LensServer, float | None]] = []
    with ExitStack() as stack:

        def make(app: Any, *, no_slice_over: float | None = None, **options: Any) -> LensServer:
            server = stack.enter_context(lens_server(app, **options))
            servers.append((server, no_slice_over))
            return server

        yield make
    for server, limit in servers:
        if limit is not None:
            server.assert_no_slice_over(limit)
