"""What the subcommands share in talking to a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click


def print_json(content: Any) -> None:
    """One JSON document on standard output, for scripts."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    # Of file names that are no UTF-8, the odd bytes become escapes, which JSON knows as well.
    click.echo(text.encode("utf-8", "backslashreplace").decode())


def need_torch() -> None:
    """Stop with the extra to install where something that training needs is missing."""
    from importlib.util import find_spec

    from humandata.errors import MissingExtra

    for package in ("torch", "timm", "safetensors", "tensorboard"):
        if find_spec(package) is None:
            raise MissingExtra(package, "train")


def table(rows: Iterable[Sequence[object]], header: Sequence[str] = ()) -> str:
    """Rows as aligned columns; numbers to the right."""
    lines = [[str(cell) for cell in row] for row in rows]
    if header:
        lines.insert(0, list(header))
    if not lines:
        return ""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    body = lines[1:] if header else lines
    numeric = [bool(body) and all(_is_number(line[i]) for line in body) for i in range(len(widths))]
    text = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    ]
    if header:
        text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(text)


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "").replace("-", "").replace("%", "").isdigit()


class Bars:
    """One progress bar per stage on a terminal, nothing where nobody looks."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet or not sys.stderr.isatty()
        self._bar: Any = None
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self.quiet:
            return
        from tqdm import tqdm

        if stage != self._stage:
            self.close()
            self._bar, self._stage = tqdm(total=total, desc=stage, unit="piece"), stage
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
