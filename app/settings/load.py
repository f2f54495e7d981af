"""Reading the settings: `MESHWARD_…` variables over a TOML file over the defaults.

An unknown name is refused with the nearest known one; every wrong value is reported with its key and its source, all
of them in one error.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from app.core.errors import InvalidInputError, Violation
from app.settings.area import Area
from app.settings.areas import Settings

PREFIX = "MESHWARD_"
# Variables that are read elsewhere: by the command line and by the agent.
OTHER_VARIABLES = frozenset(
    {"MESHWARD_CONFIG", "MESHWARD_ADMIN_TOKEN", "MESHWARD_ADMIN_URL", "MESHWARD_JOIN_TOKEN", "MESHWARD_DEBUG"}
)
# A settings file has a few dozen lines.
MAX_FILE_BYTES = 1 << 20
DEFAULT = "default"

# Kubernetes puts the addresses of a service called `meshward…` into every container of its namespace.
_SERVICE_LINK = re.compile(
    r"MESHWARD(?:_[A-Z0-9]+)*_"
    r"(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """The settings, and for each key (`mesh.tls_bind`) where its value was read: a variable, a file, or `default`."""

    settings: Settings
    sources: Mapping[str, str]


def load(environ: Mapping[str, str], config: Path | None = None) -> LoadedSettings:
    """Return the settings in variables and file. Raises InvalidInputError that names every wrong key and its source."""
    keys = tuple(_keys(Settings))
    values: dict[str, object] = {}
    sources = dict.fromkeys(keys, DEFAULT)
    violations: list[Violation] = []
    if config is not None:
        for key, value in _flatten(_read(config)):
            if key in sources:
                values[key], sources[key] = value, str(config)
            else:
                violations.append(Violation(key, f"no such setting, in {config}{_nearest(key, keys)}"))
    key_of_variable = {variable_of(key): key for key in keys}
    for variable, text in environ.items():
        if variable in key_of_variable and not text.strip():
            violations.append(Violation(variable, "is empty: give it a value or unset it"))
        elif variable in key_of_variable:
            key = key_of_variable[variable]
            values[key], sources[key] = text, variable
        elif variable.startswith(PREFIX) and variable not in OTHER_VARIABLES and not _SERVICE_LINK.fullmatch(variable):
            violations.append(Violation(variable, f"no such setting{_nearest(variable, key_of_variable)}"))
    if not violations:
        try:
            return LoadedSettings(Settings(**_nest(values)), sources)
        except ValidationError as error:
            violations = [_violation(details, sources) for details in error.errors()]
    raise InvalidInputError(f"settings are wrong: {'; '.join(map(str, violations))}", *violations)


def variable_of(key: str) -> str:
    """Return the environment variable of a key: `MESHWARD_MESH_TLS_BIND` of `mesh.tls_bind`."""
    return PREFIX + key.replace(".", "_").upper()


def _keys(area: type[Area], prefix: str = "") -> Iterator[str]:
    for name, field in area.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Area):
            yield from _keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def _read(config: Path) -> dict[str, Any]:
    try:
        with config.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidInputError(f"cannot read the settings file {config}: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise InvalidInputError(f"the settings file {config} is larger than {MAX_FILE_BYTES} bytes")
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"the settings file {config} is not valid TOML: {error}") from error


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        if isinstance(value, dict) and not prefix:
            yield from _flatten(value, f"{name}.")
        else:
            yield prefix + name, value


def _nest(values: Mapping[str, object]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        area, dot, name = key.partition(".")
        if dot:
            nested.setdefault(area, {})[name] = value
        else:
            nested[area] = value
    return nested


def _nearest(name: str, known: Any) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    return f": did you mean {nearest[0]}?" if nearest else ""


def _violation(details: ErrorDetails, sources: Mapping[str, str]) -> Violation:
    key = ".".join(part for part in details["loc"][:2] if isinstance(part, str))
    inner = details["loc"][2:]
    if key == "authz.providers":
        # After the name of a provider pydantic has its engine.
        within = "".join(f".{part}" for part in (*inner[:1], *inner[2:]))
    else:
        # A table in an array, `ca.jwt_issuers[0].issuer`; an item of a plain array is shown by its message.
        within = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in inner if len(inner) > 1)
    source = sources.get(key, DEFAULT)
    where = "" if source == DEFAULT else f" (from {source})"
    return Violation(f"{key}{within}{where}", details["msg"].removeprefix("Value error, "))
