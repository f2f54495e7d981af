"""Values that nothing changes, for paths on which it counts what it costs to make one."""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

Value = TypeVar("Value")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen_when_checked(cls: type[Value]) -> type[Value]:
    """Return the class as a dataclass with slots that is frozen for the type checker, and not while the program runs.

    To make a frozen value takes three times as long: docs/adr/0042.
    """
    return dataclass(slots=True)(cls)
