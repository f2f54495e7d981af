"""Values that nothing changes, for paths on which it counts what it costs to make one."""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

Value = TypeVar("Value")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen_when_checked(cls: type[Value]) -> type[Value]:
    """Return the class as a dataclass with slots that is frozen for the type checker, and not while the program runs.

    To make a frozen value takes three times as long: 2.4 instead of 0.8 µs for one with seventeen fields.
    """
    return dataclass(slots=True)(cls)
