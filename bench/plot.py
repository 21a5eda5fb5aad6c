"""Draws a result as SVG for the documentation."""

import re
from pathlib import Path
from typing import Any

import pygal
from pygal.style import Style

_SCRIPT = re.compile("<script.*?</script>", re.DOTALL)  # fixed, so that the output is reproducible
_STYLE = Style(
    background="white", plot_background="white", colors=("#1f6feb", "#8b949e", "#d29922"), label_font_size=12
)


def draw(result: dict[str, Any], path: Path) -> None:
    """Write an SVG with the rate of the sidecar as a multiple of each Envoy's, and a line at 1."""
    chart = pygal.HorizontalBar(
        style=_STYLE,
        title="Requests per second of processor time, as a multiple of Envoy's",
        x_title="higher is better; 1.0 is the rate of Envoy",
        print_values=True,
        value_formatter=lambda value: f"{value:.2f}",
        range=(0, 2),
        height=320,
        legend_at_bottom=True,
        truncate_legend=-1,
        disable_xml_declaration=True,
        js=(),
    )
    found = dict(reversed(result["ratios_per_cpu_second"].items()))  # drawn from bottom to top
    chart.x_labels = list(found)
    for contestant in ("envoy", "envoy + cache"):
        name = "without its token cache" if contestant == "envoy" else "with its token cache"
        chart.add(name, [others.get(contestant) for others in found.values()])
    path.write_text(_SCRIPT.sub("", chart.render(is_unicode=True)) + "\n")
