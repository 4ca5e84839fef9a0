"""One HTML file that needs nothing else: tables and pictures inside, no script, no link to load."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment

_PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; margin: .8rem 0 }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: left }
td.number { text-align: right; font-variant-numeric: tabular-nums } img { max-width: 100% } .note { color: #555 }
</style></head><body>
<h1>{{ title }}</h1>
{% for section in sections %}
<h2>{{ section.title }}</h2>
{% for paragraph in section.text %}<p>{{ paragraph }}</p>
{% endfor %}
{% if section.rows %}
<table><thead><tr>{% for name in section.rows[0] %}<th>{{ name }}</th>{% endfor %}</tr></thead><tbody>
{% for row in section.rows %}<tr>
{% for value in row.values() %}<td{% if value is number %} class="number"{% endif %}>{{ shown(value) }}</td>{% endfor %}
</tr>
{% endfor %}</tbody></table>
{% endif %}
{% for name, png in section.pictures.items() %}<img alt="{{ name }}" src="data:image/png;base64,{{ encoded(png) }}">
{% endfor %}
{% endfor %}
<p class="note">{{ note }}</p>
</body></html>
"""
)


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs, a table (rows of equal keys) and PNG pictures by their description."""

    title: str
    text: Sequence[str] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    pictures: Mapping[str, bytes] = field(default_factory=dict)


def render(title: str, sections: Sequence[Section], note: str = "") -> str:
    """The page as text."""
    return _PAGE.render(title=title, sections=sections, note=note, shown=shown, encoded=_encoded)


def shown(value: Any) -> str:
    """A value as a reader wants it: four digits, thousands apart, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return str(value)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys as a Markdown table."""
    if not rows:
        return ""
    lines = [" | ".join(rows[0]), " | ".join("---" for _ in rows[0])]
    lines += [" | ".join(shown(value).replace("|", "\\|") for value in row.values()) for row in rows]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def _encoded(png: bytes) -> str:
    return base64.b64encode(png).decode()
