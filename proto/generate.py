"""Generates app/proto from the .proto files beside this one: `make proto`."""

import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

HERE = Path(__file__).parent
TARGET = HERE.parent / "app" / "proto"


def main() -> int:
    """Run protoc over every .proto file; return its exit code."""
    sources = sorted(str(path) for path in HERE.rglob("*.proto"))
    includes = Path(grpc_tools.__file__).parent / "_proto"
    return protoc.main(
        [
            "protoc",
            f"--proto_path={HERE}",
            f"--proto_path={includes}",
            f"--python_out={TARGET}",
            f"--pyi_out={TARGET}",
            *sources,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
