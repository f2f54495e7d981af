"""The current settings as a TOML file that can be read back, with the source of each value and without secrets."""

import json
from datetime import timedelta

from app.core.durations import format_duration
from app.db.engine import redacted_url
from app.settings.area import Area
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
        text = f"# {name} is not set" if value is None else f"{name} = {_toml(value)}"
        lines.append(f"{text}  # {loaded.sources[key]}; {variable_of(key)}")
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    match value:
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            return f"{{{', '.join(f'{json.dumps(name)} = {_toml(item)}' for name, item in value.items())}}}"
        case _:
            # JSON's strings, numbers and booleans are TOML's as well.
            return json.dumps(value, ensure_ascii=False)


def _plain(value: object) -> object:
    match value:
        case bool() | int() | float() | None:
            return value
        case Area():
            return {name: _plain(item) for name, item in value if item is not None}
        case tuple() | list():
            return [_plain(item) for item in value]
        case dict():
            return {name: _plain(item) for name, item in value.items()}
        case timedelta():
            return format_duration(value)
        case _:
            return str(value)
