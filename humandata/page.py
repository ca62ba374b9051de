"""One self-contained HTML page: its parts as functions, its look in ``assets/report.html.j2``.

Nothing is loaded from anywhere: style, charts and pictures lie in the file, and no script runs.

>>> from humandata.page import Section, page, table
>>> html = page("Scores", [Section("By sequence", [table([["a", "41.0"]], ["name", "mm"])])])
>>> html.startswith("<!DOCTYPE html>")
True
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    import jinja2


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it: text becomes a paragraph, markup stays as it is."""

    title: str
    parts: Sequence[str | Markup]


def page(
    title: str,
    sections: Sequence[Section],
    subtitle: str = "",
    facts: Mapping[str, str] | None = None,
    footer: str = "",
) -> str:
    """A whole HTML document.

    Parameters
    ----------
    title, subtitle : str
    sections : sequence of Section
    facts : mapping, optional
        A few figures in large type below the title: name to value.
    footer : str

    Returns
    -------
    str
    """
    return _template().render(
        title=title, sections=sections, subtitle=subtitle, facts=facts or {}, footer=footer
    )


@functools.cache
def _template() -> jinja2.Template:
    import jinja2

    text = resources.files("humandata.assets").joinpath("report.html.j2").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(text)


def figure(jpeg: bytes, alt: str, caption: str = "", wide: bool = False) -> Markup:
    """A picture inside the page, with words for those who cannot see it."""
    data = base64.b64encode(jpeg).decode()
    return Markup(
        '<figure class="{}"><img src="data:image/jpeg;base64,{}" alt="{}">{}</figure>'
    ).format("wide" if wide else "", data, alt, _caption(caption))


def card(pictures: Iterable[Markup], caption: str) -> Markup:
    """Several views of one thing side by side, and one caption."""
    return Markup('<figure class="card"><div class="pictures">{}</div>{}</figure>').format(
        Markup("").join(pictures), _caption(caption)
    )


def _caption(text: str) -> Markup:
    return Markup("<figcaption>{}</figcaption>").format(text) if text else Markup("")


def gallery(cards: Iterable[Markup]) -> Markup:
    """Cards in as many columns as fit."""
    return Markup('<div class="gallery">{}</div>').format(Markup("").join(cards))


def charts(drawn: Iterable[Markup]) -> Markup:
    """Charts of :mod:`humandata.drawing` in as many columns as fit."""
    return Markup('<div class="charts">{}</div>').format(Markup("").join(drawn))


def banner(text: str, verdict: str) -> Markup:
    """One sentence that everything else explains; ``passed``, ``warning`` or ``failed``."""
    return Markup('<p class="banner {}">{}</p>').format(verdict, text)


def table(
    rows: Iterable[Sequence[str | Markup]], header: Sequence[str], numbers: Sequence[int] = ()
) -> Markup:
    """A table; columns in ``numbers`` are aligned to the right."""

    def line(cells: Sequence[str | Markup], tag: str) -> Markup:
        return Markup("<tr>{}</tr>").format(
            Markup("").join(
                Markup("<{0}{1}>{2}</{0}>").format(
                    Markup(tag), Markup(' class="number"') if i in numbers else "", cell
                )
                for i, cell in enumerate(cells)
            )
        )

    body = Markup("").join(line(cells, "td") for cells in rows)
    return Markup('<div class="scroll"><table>{}{}</table></div>').format(
        line(header, "th") if header else "", body
    )
