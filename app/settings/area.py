"""What every area of the settings is."""

from pydantic import BaseModel, ConfigDict


class Area(BaseModel):
    """The base of every model of settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
