"""Istio's own builder of filters, a Go program; and filters that it made, for where Go is missing."""

import gzip
import json
import subprocess
from pathlib import Path

from tests.support.differential import policies

RECORDED_SETS = 400
RECORDED = Path(__file__).parents[2] / "assets" / "istio_filters.json.gz"


def translate(builder, sets):
    """Return what the program at the path makes of each set of policies: filters, or the problem that Istio has."""
    asked = ({"trust_domains": policies.TRUST_DOMAINS, "documents": policies.documents(found)} for found in sets)
    lines = "".join(f"{json.dumps(each)}\n" for each in asked)
    done = subprocess.run([builder], input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def recorded():
    """Return the sets that are recorded, and the filters of each."""
    found = json.loads(gzip.decompress(RECORDED.read_bytes()))
    return [each["policies"] for each in found], [each["filters"] for each in found]


def record(sets, filters):
    """Write them, in the same bytes for the same filters."""
    found = [{"policies": each, "filters": made} for each, made in zip(sets, filters, strict=True)]
    RECORDED.write_bytes(gzip.compress(json.dumps(found, sort_keys=True).encode(), mtime=0))
