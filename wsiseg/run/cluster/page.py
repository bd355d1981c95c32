"""A page of our own in Dask's dashboard, ``/wsiseg``, and the same numbers for Prometheus.

The process that drives a run says once a second how it stands, as an event of Dask's (topic ``wsiseg``). A
plugin of the scheduler shows the last ones. So the page is the scheduler's, wherever that is, and several may look.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import distributed
from distributed.diagnostics.plugin import SchedulerPlugin
from tornado.ioloop import IOLoop
from tornado.web import Application, RequestHandler

from wsiseg.report.pace import ACTIVITIES

TOPIC = "wsiseg"
_PAGE = "/wsiseg"
_UPDATE_MS = 1000
_COUNTS = {
    "slides": "Slides of the run",
    "slides_ended": "Slides that have ended",
    "tiles_done": "Tiles that are done",
    "tiles_total": "Tiles of the slides that have begun",
    "tiles_failed": "Tiles that failed",
    "nuclei": "Nuclei found",
    "pixels": "Pixels of the network's input",
}
_REGISTERING = threading.Lock()


def show_page(client: distributed.Client) -> None:
    """Put the page on a client's scheduler, once; one that cannot import wsiseg goes without."""
    try:
        client.register_plugin(DashboardPage(), name="wsiseg-page")
    except Exception:  # what another scheduler raises for a class that it does not have is anything
        return


class DashboardPage(SchedulerPlugin):
    """Adds the page and the metrics to the scheduler that it is given."""

    name = "wsiseg-page"
    idempotent = True

    async def start(self, scheduler: distributed.Scheduler) -> None:
        """Called on the scheduler."""
        application = getattr(scheduler, "http_application", None)
        if application is None:
            return
        try:
            from distributed.dashboard.core import BokehApplication
            from distributed.dashboard.scheduler import template_variables
        except ImportError as error:
            text = f"The page needs bokeh, which the scheduler cannot import ({error}): pip install 'bokeh>=3.4'"
            application.add_application(Application([(_PAGE, _Missing, {"text": text})]))
        else:
            shared = template_variables(scheduler)
            if TOPIC not in shared["pages"]:
                shared["pages"].insert(0, TOPIC)
            page = BokehApplication({_PAGE: _document}, scheduler, template_variables=shared)
            application.add_application(page)
            page.initialize(IOLoop.current())
            page.start()
        self._metrics = _publish_metrics(scheduler)

    async def close(self) -> None:
        """Called when the scheduler ends."""
        metrics: Any = getattr(self, "_metrics", None)
        if metrics is not None:
            import prometheus_client

            prometheus_client.REGISTRY.unregister(metrics)


class _Missing(RequestHandler):
    def initialize(self, text: str) -> None:
        self._text = text

    def get(self) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.write(self._text)


def _latest(scheduler: distributed.Scheduler) -> Mapping[str, Any] | None:
    events = scheduler.get_events(TOPIC)
    return events[-1][1] if events else None


# The page


def _document(scheduler: distributed.Scheduler, extra: Mapping[str, Any], document: Any) -> None:
    """Fill a document of bokeh's that renews itself."""
    from bokeh.layouts import column, row
    from bokeh.models import ColumnDataSource, FactorRange
    from bokeh.models.widgets import DataTable, Div, TableColumn
    from bokeh.plotting import figure
    from distributed.dashboard.components.scheduler import BOKEH_THEME, env

    head, notes = Div(sizing_mode="stretch_width"), Div(sizing_mode="stretch_width")
    speed = ColumnDataSource({"seconds": [], "mpx_s": []})
    work = ColumnDataSource({"activity": [], "share": []})
    slides = ColumnDataSource({name: [] for name in _ROW})
    size: Any = {"height": 220, "sizing_mode": "stretch_width", "tools": ""}
    line = figure(title="Mpx/s of the network's input", x_axis_label="seconds since the run began", **size)
    line.line("seconds", "mpx_s", source=speed, line_width=2, color="#1b6f8a")
    activities = FactorRange(factors=["–"])
    bars = figure(title="What the workers' time went into, %", y_range=activities, **size)
    bars.hbar(y="activity", right="share", height=0.7, source=work, color="#c9782f")
    columns = [TableColumn(field=name, title=title) for name, title in _ROW.items()]
    table = DataTable(source=slides, columns=columns, sizing_mode="stretch_width", height=420, index_position=None)

    def update() -> None:
        events = scheduler.get_events(TOPIC)
        if not events:
            head.text = "<h2>No run yet</h2>"
            return
        shown = events[-1][1]
        head.text, notes.text = _head(shown), _notes(shown["notes"])
        history = _of_this_run([event for _, event in events])
        speed.data = {name: [one[key] for one in history] for name, key in _SPEED.items()}
        shares = _shares(shown["seconds"])
        activities.factors = [name for name, _ in shares] or ["–"]
        work.data = {"activity": [name for name, _ in shares], "share": [share for _, share in shares]}
        slides.data = {name: [one[name] for one in map(_cells, shown["rows"])] for name in _ROW}

    update()
    document.add_periodic_callback(update, _UPDATE_MS)
    document.title = "wsiseg"
    figures = row(line, bars, sizing_mode="stretch_width")
    document.add_root(column(head, figures, table, notes, sizing_mode="stretch_width"))
    document.template = env.get_template("simple.html")
    document.template_variables.update(extra)
    document.theme = BOKEH_THEME


_ROW = {
    "slide": "slide",
    "tiles": "tiles",
    "nuclei": "nuclei",
    "failed": "failed tiles",
    "outcome": "stage or outcome",
}
_SPEED = {"seconds": "elapsed_s", "mpx_s": "mpx_s"}


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "slide": row["slide"],
        "tiles": f"{row['done']:,} of {row['total']:,}",
        "nuclei": f"{row['nuclei']:,}",
        "failed": str(row["failed"]),
        "outcome": row["outcome"],
    }


def _of_this_run(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The last events, from the one on with which their clock began."""
    first = 0
    for i in range(1, len(events)):
        if events[i]["elapsed_s"] < events[i - 1]["elapsed_s"]:
            first = i
    return list(events[first:])


def _head(shown: Mapping[str, Any]) -> str:
    """The numbers of a run in a line of large ones, as HTML."""
    total = max(shown["tiles_total"], 1)
    cells = [
        ("slides", f"{shown['slides_ended']:,} of {shown['slides']:,}"),
        ("tiles", f"{shown['tiles_done']:,} of {shown['tiles_total']:,} ({shown['tiles_done'] / total:.0%})"),
        ("nuclei", f"{shown['nuclei']:,}"),
        ("Mpx/s now", f"{shown['mpx_s']:.1f}"),
        ("Mpx/s in all", f"{shown['mpx_s_mean']:.1f}"),
        ("device busy", "–" if shown.get("device_busy") is None else f"{shown['device_busy']:.0%}"),
        ("failed tiles", f"{shown['tiles_failed']:,}"),
        ("failed slides", f"{shown['statuses'].get('failed', 0):,}"),
        ("grades", ", ".join(f"{html.escape(name)} {count}" for name, count in shown["grades"].items()) or "–"),
    ]
    style = "display:inline-block;margin:4px 28px 8px 4px"
    return "".join(
        f'<div style="{style}"><div style="color:#667">{name}</div><div style="font-size:22px">{value}</div></div>'
        for name, value in cells
    )


def _notes(notes: Sequence[str]) -> str:
    return "<br>".join(html.escape(note) for note in notes)


def _shares(seconds: Mapping[str, float]) -> list[tuple[str, float]]:
    """Activities by their share of all time, in percent; the largest is last, which is on top."""
    whole = sum(seconds.values()) or 1.0
    named = [(ACTIVITIES.get(name, name), 100 * value / whole) for name, value in seconds.items()]
    return sorted(named, key=lambda item: item[1])


# Prometheus


class _Metrics:
    """What ``/metrics`` of the scheduler says beside Dask's own."""

    def __init__(self, scheduler: distributed.Scheduler) -> None:
        self._latest = partial(_latest, scheduler)

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        shown = self._latest()
        if shown is None:
            return
        for name, text in _COUNTS.items():
            yield GaugeMetricFamily(f"wsiseg_{name}", text, value=shown[name])
        yield GaugeMetricFamily("wsiseg_megapixels_per_second", "Of the last half minute", value=shown["mpx_s"])
        if shown.get("device_busy") is not None:
            yield GaugeMetricFamily(
                "wsiseg_device_busy", "Share of the last half minute", value=shown["device_busy"]
            )
        yield _labelled(GaugeMetricFamily, "wsiseg_slides_by_status", "Ended", "status", shown["statuses"])
        yield _labelled(GaugeMetricFamily, "wsiseg_slides_by_grade", "Graded", "grade", shown["grades"])
        yield _labelled(
            CounterMetricFamily, "wsiseg_worker_seconds", "Of all workers", "activity", shown["seconds"]
        )


def _labelled(family: Any, name: str, text: str, label: str, values: Mapping[str, float]) -> Any:
    found = family(name, text, labels=[label])
    for value_of, value in values.items():
        found.add_metric([value_of], value)
    return found


def _publish_metrics(scheduler: distributed.Scheduler) -> _Metrics | None:
    """Register the metrics where the scheduler's endpoint finds them; None without the library."""
    try:
        import prometheus_client
    except ImportError:
        return None
    metrics = _Metrics(scheduler)
    with _REGISTERING:
        prometheus_client.REGISTRY.register(metrics)
    return metrics
