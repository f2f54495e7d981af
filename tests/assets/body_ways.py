"""Ways around a policy that looks into bodies, as data: requests that must not reach the workload.

Add a line to add one.
`POLICY` lets those pass whose role is `user`; in each of these some server finds the role `admin`.
"""

from tests.assets.ways_in import Way

POLICY = """package envoy.authz

default allow := false

allow if input.parsed_body.role == "user"

allow if input.parsed_body.role == ["user"]
"""
# What Envoy sends of a body.
MAX_BODY_BYTES = 256

JSON, FORM = "content-type: application/json", "content-type: application/x-www-form-urlencoded"
MULTIPART = "content-type: multipart/form-data; boundary=xYz"
USER = '{"role": "user"}'
# A body that is whole where Envoy cuts it, and goes on.
PADDED = f"{USER.ljust(MAX_BODY_BYTES)}, {{}}]" + '{"role": "admin"}'
PART = 'Content-Disposition: form-data; name="role"\r\n\r\n'


def chunked(body: str) -> str:
    """The body in one chunk."""
    return f"{len(body.encode()):x}\r\n{body}\r\n0\r\n\r\n"


def _way(name: str, body: str, *headers: str, http2: bool = False) -> Way:
    return Way(name, "/", headers, "POST", body=body, http2=http2)


CHUNKS = "Transfer-Encoding: chunked"
WAYS = (
    _way("a name twice", '{"role": "admin", "role": "user"}', JSON),
    _way("a name twice", '{"r\\u006fle": "admin", "role": "user"}', JSON),
    _way("a name twice", "role=admin&role=user", FORM),
    _way("a name twice", "role=user&r%6fle=admin", FORM),
    _way("a name twice", f"--xYz\r\n{PART}user\r\n--xYz\r\n{PART}admin\r\n--xYz--\r\n", MULTIPART),
    _way("another separator", "a=1;role=admin&role=user", FORM),
    _way("longer than what is sent", PADDED, JSON),
    _way("longer than what is sent", chunked(PADDED), JSON, CHUNKS),
    _way("longer than what is sent", PADDED, JSON, http2=True),
    _way("longer than what is sent", f"role=user&a={'x' * MAX_BODY_BYTES}&role=admin", FORM),
    _way("forged partial body", PADDED, JSON, "x-envoy-auth-partial-body: false"),
    _way("forged partial body", chunked(PADDED), JSON, CHUNKS, "x-envoy-auth-partial-body: false"),
    _way("forged partial body", PADDED, JSON, "x-envoy-auth-partial-body: ", http2=True),
    _way("several kinds", '{"role": "user", "x": "&role=admin"}', f'{FORM}; a="application/json"'),
    _way("several kinds", '{"role": "user", "x": "&role=admin"}', FORM, JSON),
    _way("another charset", '{"role": "user", "x": "+ACIsACI-role+ACIAOgAi-admin"}', f"{JSON}; charset=utf-7"),
    _way("another encoding", "\x1f&role=user&", FORM, "content-encoding: gzip"),
    _way("another encoding", USER, JSON, "Content-Encoding: deflate"),
    _way("byte order mark", f"\ufeff{USER}", JSON),
    _way("what is no JSON", f"{USER}{USER}", JSON),
    _way("what is no JSON", '{"role": "user",}', JSON),
    _way("no kind", USER),
    _way("another kind", USER, "content-type: text/plain"),
    _way("another kind", "role=user", JSON),
    _way("another type", '{"role": ["user", "admin"]}', JSON),
    _way("another type", '{"role": {"user": true}}', JSON),
    _way("no body", "", JSON),
)
PASSING = (
    _way("object", USER, JSON),
    _way("object", chunked(USER), JSON, CHUNKS),
    _way("object", USER, f"{JSON}; charset=utf-8", http2=True),
    _way("form", "role=user", FORM),
    _way("parts", f"--xYz\r\n{PART}user\r\n--xYz--\r\n", MULTIPART.replace("xYz", '"xYz"')),
)
