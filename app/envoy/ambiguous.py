"""What the proxy refuses or removes because servers read it otherwise than the request that was checked."""

# Paths that Envoy's normalisation leaves as they are and that servers resolve to others, or refuse to read (RE2).
AMBIGUOUS_PATH = "|".join(
    f".*({form}).*"
    for form in (
        # Parameters of dot segments and empty ones, and escapes within escapes.
        r"/\.{0,2}(;|%3[bB])|%25[0-9A-Fa-f]{2}",
        # A `%` without two digits, as before `u002f`.
        r"%([^0-9A-Fa-f]|.[^0-9A-Fa-f]|.?$)",
        # Control characters: an expression for a path may end before a line end.
        r"%[01][0-9A-Fa-f]|%7[fF]",
        # Spellings of a byte in two to six that UTF-8 does not have.
        r"%[cC][01]|%[eE]0%[89]|%[fF]0%8|%[fF][89a-dA-D]",
        # No path has brackets (RFC 3986, section 3.3), and a template's operators do not stand for them.
        r"[\[\]]",
    )
)
# Authorities that servers read otherwise: user information, two Host headers, which Envoy joins with a comma, escapes.
AMBIGUOUS_AUTHORITY = r".*[@,%].*"
# Methods in lower case, which HTTP/2 lets pass and some frameworks take for those in upper case.
AMBIGUOUS_METHOD = r".*[a-z].*"
# Headers by which frameworks let a client name another method, path or host than the one that was checked.
OVERRIDES = (
    *("x-http-method-override", "x-http-method", "x-method-override"),
    *("x-original-url", "x-rewrite-url", "x-envoy-original-path"),
    *("x-forwarded-host", "x-original-host", "forwarded"),
)
