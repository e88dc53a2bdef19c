"""screen: `fastserve top` as a live view in the terminal, by textual. What is shown is reckoned by top.py.

Room: floor 3. Called by: commands.py, if textual is installed (the extra `top`). Calls: top, explain, recording; textual.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.timer import Timer
from textual.widgets import DataTable, Footer, Input, Static

from fastserve.errors import LensError
from fastserve.lens.explain import explain
from fastserve.lens.model import RequestTrace
from fastserve.lens.recording import Recording, switch
from fastserve.lens.top import (
    FLIGHT_COLUMNS,
    ROUTE_COLUMNS,
    SORTS,
    Flight,
    Route,
    Top,
    View,
    flight_cells,
    loop_line,
    route_cells,
    sorted_routes,
    title,
    worst,
)

__all__ = ["Screen"]

RECORD_SECONDS = 10.0


class Told(ModalScreen[None]):
    """One request in sentences, over the rest."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,e,enter", "dismiss", "close")]
    DEFAULT_CSS = """
    Told { align: center middle; }
    Told VerticalScroll { width: 92%; height: 88%; border: round $accent; background: $surface; padding: 1 2; }
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(Text(self.text))


class Screen(App[None]):
    """The live view. `take` brings a recording; `switch_to` has the server record by a mode."""

    TITLE = "fastserve top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #title { padding: 0 1; text-style: bold; background: $panel; }
    #loops { padding: 0 1; max-height: 8; }
    #message { padding: 0 1; color: $warning; }
    #filter { display: none; }
    #filter.shown { display: block; }
    #findings { padding: 0 1; color: $error; }
    #routes { height: 1fr; }
    #flights { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "record", "record"),
        Binding("s", "sort", "sort"),
        Binding("w", "warnings", "warnings"),
        Binding("slash", "filter", "filter", key_display="/"),
        Binding("e", "explain", "explain"),
        Binding("q", "quit", "quit"),
        Binding("ctrl+c", "quit", show=False, priority=True),  # textual's own tells of another key
    ]

    def __init__(
        self,
        take: Callable[[], Recording],
        *,
        every: float = 1.0,
        top: Top | None = None,
        switch_to: Callable[[int, str], None] = switch,
    ) -> None:
        super().__init__()
        self._take = take
        self._switch = switch_to
        self._every = every
        self._top = top or Top()
        self._sort = 0
        self._only_warnings = False
        self._words = ""
        self._before = ""  # the mode to go back to; "": nothing was switched on from here
        self._timer: Timer | None = None
        self.view: View | None = None
        self._shown_routes: list[Route] = []
        self._shown_flights: list[Flight] = []

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield Static(id="loops")
        yield Static(id="message")
        yield Input(placeholder="part of a route or path; Enter", id="filter")
        yield DataTable(id="routes", cursor_type="row", zebra_stripes=True)
        yield DataTable(id="flights", cursor_type="row")
        yield Static(id="findings")
        yield Footer()

    async def on_mount(self) -> None:
        self.query_one("#routes", DataTable).add_columns(*ROUTE_COLUMNS)
        self.query_one("#flights", DataTable).add_columns(*FLIGHT_COLUMNS)
        self.query_one("#routes", DataTable).focus()
        await self.look()
        self.set_interval(self._every, self.look)

    # ---------------------------------------------------------------------------------------------------------- looking

    async def look(self) -> None:
        """Take a recording and show it. Reading much takes a while: a thread does it, and the keys go on working."""
        try:
            self.view = await asyncio.to_thread(lambda: self._top.look(self._take()))
        except LensError as error:
            self.say(str(error))
            return
        self.show()

    def show(self) -> None:
        view = self.view
        if view is None:
            return
        self.query_one("#title", Static).update(Text(title(view)))
        lines = [Text(loop_line(loop), style="bold red" if loop.stalled_ns else "") for loop in view.loops]
        self.query_one("#loops", Static).update(Text("\n").join(lines))
        self.query_one("#findings", Static).update(Text("\n".join(worst(view))))
        routes = sorted_routes(view.routes, SORTS[self._sort])
        self._shown_routes = [
            route for route in routes if self._words in route.name.lower() and (route.warn or not self._only_warnings)
        ]
        self._shown_flights = [
            flight
            for flight in view.flights
            if self._words in flight.text.lower() and (flight.holds or not self._only_warnings)
        ]
        colours = {"!!": "bold red", "!": "yellow"}
        self._fill(
            "#routes",
            [[Text(cell, colours.get(route.warn, "")) for cell in route_cells(route)] for route in self._shown_routes],
        )
        self._fill(
            "#flights",
            [
                [Text(cell, "bold red" if flight.holds else "") for cell in flight_cells(flight)]
                for flight in self._shown_flights
            ],
        )

    def _fill(self, which: str, rows: list[list[Text]]) -> None:
        table = self.query_one(which, DataTable)
        row = table.cursor_row
        table.clear()
        for cells in rows:
            table.add_row(*cells)
        if rows:
            table.move_cursor(row=min(row, len(rows) - 1), animate=False)

    def say(self, text: str) -> None:
        """A line under the loops."""
        self.query_one("#message", Static).update(Text(text))

    # ---------------------------------------------------------------------------------------------------------- the keys

    def action_record(self) -> None:
        """Record everything for a while, or stop doing so."""
        view = self.view
        if view is None:
            return
        if self._before:
            self.say(self._switch_back())
            return
        if view.mode == "full":
            self.say("every request is recorded already")
            return
        try:
            self._switch(view.pid, "full")
        except LensError as error:
            self.say(str(error))
            return
        self._before = view.mode
        self.say(f"recording every request for {RECORD_SECONDS:g} s, then `{view.mode}` again")
        self._timer = self.set_timer(RECORD_SECONDS, lambda: self.say(self._switch_back()))

    def _switch_back(self) -> str:
        """As it was before [r]. What is to be said about it."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if not self._before or self.view is None:
            return ""
        before, self._before = self._before, ""
        try:
            self._switch(self.view.pid, before)
        except LensError as error:
            return str(error)
        return f"the lens is `{before}` again"

    def action_sort(self) -> None:
        self._sort = (self._sort + 1) % len(SORTS)
        self.say(f"sorted by {SORTS[self._sort]}")
        self.show()

    def action_warnings(self) -> None:
        self._only_warnings = not self._only_warnings
        self.say("only what has a warning" if self._only_warnings else "")
        self.show()

    def action_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.add_class("shown")
        box.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self._words = event.value.strip().lower()
        event.input.remove_class("shown")
        self.query_one("#routes", DataTable).focus()
        self.say(f"only what contains {self._words!r}" if self._words else "")
        self.show()

    def action_explain(self) -> None:
        """The request of the row, or the slowest one of its route."""
        view = self.view
        if view is None:
            return
        request = self._chosen()
        if request is None:
            self.say(f"no request of it is recorded; [r] records for {RECORD_SECONDS:g} s")
            return
        try:
            self.push_screen(Told(explain(view.model, request.id)))
        except LensError as error:
            self.say(str(error))

    def on_data_table_row_selected(self, _event: DataTable.RowSelected) -> None:
        self.action_explain()

    def _chosen(self) -> RequestTrace | None:
        view = self.view
        assert view is not None
        table = self.focused
        at = table.cursor_row if isinstance(table, DataTable) else 0
        if isinstance(table, DataTable) and table.id == "flights":
            flight = self._shown_flights[at] if at < len(self._shown_flights) else None
            return view.model.by_id.get(flight.id) if flight is not None else None
        route = self._shown_routes[at] if at < len(self._shown_routes) else None
        if route is None:
            return None
        found = [one for one in view.model.requests if one.route_name == route.name and not one.partial]
        return max(found, key=lambda one: one.total, default=None)

    def on_unmount(self) -> None:
        self._switch_back()
