"""What the control plane and the processes that evaluate Rego send each other: frames with their length."""

LENGTH_BYTES = 4
# The first byte of a reply.
READY, TRUE, FALSE, UNDEFINED, DECISION, FAILED = b"r", b"t", b"f", b"u", b"d", b"e"


def frame(payload: bytes) -> bytes:
    """Return the payload with its length before it."""
    return len(payload).to_bytes(LENGTH_BYTES) + payload


def length_of(buffer: bytearray) -> int:
    """Return how long the first frame in the buffer is with its length, which has to be there."""
    return LENGTH_BYTES + int.from_bytes(buffer[:LENGTH_BYTES])
