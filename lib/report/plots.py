"""Plots as PNG, drawn without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BAR_COLOUR = "#2f6f8f"
NOTE_COLOUR = "#b0bec5"


def bars(
    values: Mapping[str, float | None], *, title: str, unit: str, log: bool = False, pale: Sequence[str] = ()
) -> bytes:
    """One horizontal bar per label, its value beside it, None as "not measured"; `pale` bars are set apart."""
    figure = Figure(figsize=(7.2, 0.9 + 0.42 * len(values)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    labels = list(values)
    widths = [values[label] or 0.0 for label in labels]
    colours = [NOTE_COLOUR if label in pale else BAR_COLOUR for label in labels]
    axes.barh(labels, widths, color=colours, log=log)
    axes.invert_yaxis()
    for row, label in enumerate(labels):
        value = values[label]
        text = "not measured" if value is None else f" {value:,.3g} {unit}"
        axes.annotate(text, (widths[row], row), va="center", fontsize=9)
    axes.margins(x=0.25)
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(f"{unit}{', logarithmic' if log else ''}")
    axes.spines[["top", "right"]].set_visible(False)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return png.getvalue()


def lines(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    *,
    title: str,
    x: str,
    log: bool = False,
    bold: str = "",
) -> bytes:
    """A panel per name, in it a line of (x, y) points per name; the line named `bold` stands out."""
    figure = Figure(figsize=(4.2 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for curve, points in curves.items():
            axes.plot(*zip(*points, strict=True), marker="o", label=curve, linewidth=2.5 if curve == bold else 1.2)
        axes.set(title=name, xlabel=x, yscale="log" if log else "linear")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    figure.axes[0].legend(fontsize=8)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return png.getvalue()
