"""The settings of the Meshward above this one."""

from pydantic import model_validator

from app.settings.area import Area
from app.settings.values import CertificateName, FilePath, ServerAddress


class UpstreamSettings(Area):
    """The Meshward that certifies the signing authority of this one.

    `server`: its mesh port over TLS, whose certificate must be for `server_name`, the host of `server` unless it is
    set. `trust_bundle`: the roots that it is verified by until this control plane has enrolled. `join_token_file`: has
    the join token to enrol with.
    """

    server: ServerAddress | None = None
    server_name: CertificateName | None = None
    trust_bundle: FilePath | None = None
    join_token_file: FilePath | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> "UpstreamSettings":
        if self.server is not None and self.trust_bundle is None:
            raise ValueError("server needs trust_bundle: copy bundle.pem from the data dir of the upstream")
        if self.server is None and any((self.server_name, self.trust_bundle, self.join_token_file)):
            raise ValueError("server_name, trust_bundle and join_token_file are those of server, which is not set")
        return self
