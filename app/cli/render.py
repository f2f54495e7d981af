"""Printing what was found: columns for people, JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from app.cli.options import Form


def show_items(items: Sequence[Mapping[str, Any]], columns: Sequence[str], form: Form) -> None:
    """Print one line an item with `columns`, or a JSON array with all that is known."""
    if form is Form.JSON:
        typer.echo(json.dumps(list(items), indent=2))
        return
    rows = [tuple(column.upper().replace("_", " ") for column in columns)]
    rows += [tuple(_text(item.get(column)) for column in columns) for item in items]
    widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show_item(item: Mapping[str, Any], form: Form) -> None:
    """Print one line a field, or a JSON object."""
    if form is Form.JSON:
        typer.echo(json.dumps(item, indent=2))
        return
    width = max((len(name) for name in item), default=0)
    for name, value in item.items():
        lines = _text(value).splitlines() or [""]
        typer.echo(f"{name.ljust(width)}  {lines[0]}".rstrip())
        for line in lines[1:]:
            typer.echo(f"{' ' * width}  {line}")


def _text(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(str, value)) or "-"
        case _:
            # What others named may hold control characters; a terminal must not obey them.
            text = str(value)
            return "".join(mark if mark.isprintable() or mark == "\n" else "�" for mark in text)
