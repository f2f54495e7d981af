"""A form in parts that is accepted is read by other servers as it is here."""

import email.policy
from email.parser import BytesParser

from hypothesis import given, settings
from hypothesis import strategies as st

from app.authz.rules.bodies import parsed_body
from app.core.errors import InvalidInputError

KIND = "multipart/form-data; boundary=xYz"
NAME = b'Content-Disposition: form-data; name="a"'
LINES = st.sampled_from(
    [
        *(b"--xYz", b"--xYz--", b"--xYz ", b"--xY", b"--xYz\t--", b" --xYz", b"", b"", b"1", b"--", b"x: y", b"x"),
        *(NAME, b'content-disposition:form-data;name="b"', b'Content-Disposition: form-data; name="a"; name="b"'),
        *(b'Content-Disposition: form-data; name="a"; filename="--xYz"', b"Content-Disposition: form-data; name=a"),
        *(b"Content-Disposition: form-data; name=c; filename=x; filename*=utf-8''y", b"Content-Disposition: form-data"),
        *(b'Content-Disposition: attachment; name="a"', b"Content-Type: text/plain", b"Content-Type: application/json"),
        *(b"Content-Transfer-Encoding: base64", b"Content-Type: multipart/mixed; boundary=b", b" folded", b"--b"),
    ]
)
ENDS = st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\r", b""])
PARTS = st.lists(st.sampled_from([[b"--xYz", NAME, b"", b"1"], [b"--xYz", NAME, b"x: y", b"", b"1", b"2"]]), max_size=3)


@st.composite
def bodies(draw):
    """A well-formed form in which some lines were replaced, added or taken out, and some ends changed."""
    lines = [line for part in draw(PARTS) for line in part] + [b"--xYz--", b""]
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(lines)))
        lines[at : at + draw(st.integers(0, 1))] = draw(st.lists(LINES, max_size=2))
    changed = draw(st.booleans())
    return b"".join(line + (draw(ENDS) if changed else b"\r\n") for line in lines)


def read_by_another(body):
    """Names and values, as Python's parser of mail finds them."""
    head = f"Content-Type: {KIND}\r\n\r\n".encode()
    message = BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    found = {}
    for part in message.get_payload():
        name = part.get_param("name", header="content-disposition")
        found.setdefault(name, []).append(part.get_payload(decode=True).decode("utf-8", "replace"))
    return found


@settings(max_examples=500, deadline=None)
@given(bodies())
def test_a_form_that_is_accepted_is_read_alike_by_another_parser(body):
    http = {"headers": {"content-type": KIND}, "body": body.decode("latin-1")}
    try:
        found, is_cut = parsed_body(http, bytes, None)
    except InvalidInputError:
        return
    assert not is_cut
    if b"application/json" not in body and b"multipart/mixed" not in body and found:
        assert found == read_by_another(body)
