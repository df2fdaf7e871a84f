"""Elements of SVG. Colors come from the style sheet of the page: light, dark, print."""

from __future__ import annotations

from markupsafe import Markup


def chart(width: float, height: float, label: str, *content: Markup) -> Markup:
    """A chart with a name for screen readers."""
    box = f"0 0 {width:g} {height:g}"
    inner = Markup("").join(content)
    return tag("svg", inner, class_="chart", viewBox=box, width=width, height=height, role="img", aria_label=label)


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return tag("line", class_=kind, x1=x1, y1=y1, x2=x2, y2=y2)


def dot(x: float, y: float, radius: float) -> Markup:
    return tag("circle", class_="dot", cx=x, cy=y, r=radius)


def text(x: float, y: float, text: str, anchor: str, kind: str = "label", tooltip: str = "", **more: str) -> Markup:
    content = Markup("{}{}").format(title(tooltip) if tooltip else "", text)
    return tag("text", content, class_=kind, x=x, y=y, text_anchor=anchor, **more)


def title(text: str) -> Markup:
    return tag("title", text)


def tag(name: str, content: str = "", **attributes: str | float) -> Markup:
    """An element. Its attributes, and content that is not ``Markup``, are escaped; ``class_`` is ``class``."""
    written = [
        Markup(' {}="{}"').format(
            key.rstrip("_").replace("_", "-"),
            value if isinstance(value, str) else f"{round(value, 2):g}",
        )
        for key, value in attributes.items()
    ]
    return Markup("<{0}{1}>{2}</{0}>").format(name, Markup("").join(written), content)
