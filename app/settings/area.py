"""What every area of the settings is."""

from pydantic import BaseModel, ConfigDict

# gRPC's own default for the largest message, and what may be set instead.
DEFAULT_MESSAGE_BYTES = 4 << 20
MIN_MESSAGE_BYTES = 64 << 10
MAX_MESSAGE_BYTES = 64 << 20
# How many networks a setting may list.
MAX_NETWORKS = 64


class Area(BaseModel):
    """The base of every model of settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
