"""Every setting of the control plane: its name, its bounds, its default, and where it was read from."""

from app.settings.areas import AdminSettings, CaSettings, LogSettings, MeshSettings
from app.settings.areas import Settings as Settings
from app.settings.authz import AuthzSettings
from app.settings.kubernetes import KubernetesSettings
from app.settings.load import LoadedSettings, load
from app.settings.quota import CountersSettings, QuotaSettings

__all__ = [
    "AdminSettings",
    "AuthzSettings",
    "CaSettings",
    "CountersSettings",
    "KubernetesSettings",
    "LoadedSettings",
    "LogSettings",
    "MeshSettings",
    "QuotaSettings",
    "Settings",
    "load",
]
