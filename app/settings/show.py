"""The current settings as a TOML file that can be read back, with the source of each value and without secrets."""

import json
from datetime import timedelta

from app.core.durations import format_duration
from app.db.engine import redacted_url
from app.settings.load import LoadedSettings, variable_of


def as_values(loaded: LoadedSettings) -> dict[str, object]:
    """Return each key with its value as JSON knows it; the database's password is replaced."""
    values: dict[str, object] = {}
    for key in loaded.sources:
        value: object = loaded.settings
        for name in key.split("."):
            value = getattr(value, name)
        values[key] = redacted_url(str(value)) if key == "database_url" else _plain(value)
    return values


def as_toml(loaded: LoadedSettings) -> str:
    """Return the settings as TOML, each line with its source and its variable."""
    lines: list[str] = []
    area = ""
    for key, value in as_values(loaded).items():
        table, dot, name = key.rpartition(".")
        if dot and table != area:
            area = table
            lines += ["", f"[{area}]"]
        # JSON's strings, numbers, booleans and arrays of strings are TOML's as well; it has no null.
        text = f"# {name} is not set" if value is None else f"{name} = {json.dumps(value, ensure_ascii=False)}"
        lines.append(f"{text}  # {loaded.sources[key]}; {variable_of(key)}")
    return "\n".join(lines) + "\n"


def _plain(value: object) -> object:
    match value:
        case bool() | int() | float() | None:
            return value
        case tuple():
            return [str(item) for item in value]
        case timedelta():
            return format_duration(value)
        case _:
            return str(value)
