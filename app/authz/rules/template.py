"""Istio's path templates: `{*}` is one segment, `{**}` any number of them and the last operator of a template."""

import re

from app.authz.rules.strings import StringTest

ONE_SEGMENT = "{*}"
ANY_SEGMENTS = "{**}"
# Operators in one template, Envoy's own bound; the expression below is linear in the path for any number.
MAX_OPERATORS = 5

_LITERAL = re.compile(r"[a-zA-Z0-9\-._~%!$&'()+,;:@=]*")
_CHARACTERS = r"a-zA-Z0-9\-._~%!$&'()+,;:@="


def is_template(path: str) -> bool:
    """Whether `path` has an operator and so is a template and not a string pattern."""
    return ONE_SEGMENT in path or ANY_SEGMENTS in path


def template_problem(path: str) -> str:
    """Return what is wrong with the template, empty if nothing is."""
    if not path.startswith("/"):
        return "a path template must start with '/'"
    segments = path[1:].split("/")
    operators = [segment for segment in segments if segment in {ONE_SEGMENT, ANY_SEGMENTS}]
    if len(operators) > MAX_OPERATORS:
        return f"a path template must not have more than {MAX_OPERATORS} operators"
    if ANY_SEGMENTS in operators[:-1]:
        return "'{**}' must be the last operator of a path template"
    for segment in segments:
        if segment not in {ONE_SEGMENT, ANY_SEGMENTS} and not _LITERAL.fullmatch(segment):
            return f"segment {segment!r} of a path template must be '{{*}}', '{{**}}' or literal, without '*' or braces"
    return ""


def template_test(path: str, *, wide: bool) -> StringTest:
    """Return a test whether a path matches the template.

    An operator stands for the characters that Istio names. A wide test takes any other for them, too, such as `*` and
    `|`, which would let a request slip through a denial, and a path with one slash more at its end for the same.
    """
    segment = "[^/]" if wide else f"[{_CHARACTERS}]"
    expressions = {ONE_SEGMENT: f"{segment}+", ANY_SEGMENTS: ".*" if wide else f"[{_CHARACTERS}/]*"}
    parts = (expressions.get(segment, re.escape(segment)) for segment in path.split("/"))
    matches = re.compile("/".join(parts) + ("/?" if wide else "")).fullmatch
    return lambda text: matches(text) is not None
