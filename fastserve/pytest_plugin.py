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
    from fastserve.testing import TestClient

__all__ = ["fastserve_client", "fastserve_server"]


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
