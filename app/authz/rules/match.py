"""One field of a rule becomes one test of a request.

Two things depend on the side a test is on. A rule *grants* if its policy is an ALLOW and *refuses* if it is a DENY:

- What the check does not tell (None) makes a test of a granting rule false and of a refusing rule true.
- Where a server may read a value in more than one way (a host with and without its port, a header that came twice, a
  path with and without its last slash), a test is *wide*, true if any reading matches, where true leads to a denial:
  values of a refusing rule, notValues of a granting one. Otherwise every reading must match.
"""

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address

from app.authz.model import CheckInput, Identity, IpAddress, IpNetwork, Networks, Patterns, Ports
from app.authz.rules.strings import ANY, StringPatterns, StringTest, glob_test
from app.authz.rules.template import is_template, template_test

Test = Callable[[CheckInput], bool]
IdentityTest = Callable[[Identity], bool]
AddressTest = Callable[[IpAddress], bool]


def identity_tests(patterns: Patterns, make: Callable[[Iterable[str]], IdentityTest], *, grants: bool) -> list[Test]:
    """Return the tests of the source's identity, each list of patterns turned into a test by `make`.

    A peer without an identity satisfies no values. It satisfies notValues of a refusing rule, but of a granting one
    only where they list `*` and so speak of peers without identity: otherwise plaintext would pass as "not mallory".
    """
    tests: list[Test] = []
    if patterns.any_of:
        tests.append(_has_identity(make(patterns.any_of), unknown=not grants))
    if patterns.none_of:
        nobody = not grants or ANY in patterns.none_of
        tests.append(_lacks_identity(make(patterns.none_of), unknown=not grants, nobody=nobody))
    return tests


def _has_identity(test: IdentityTest, *, unknown: bool) -> Test:
    def matches(request: CheckInput) -> bool:
        source = request.source
        return unknown if source is None else test(source)

    return matches


def _lacks_identity(test: IdentityTest, *, unknown: bool, nobody: bool) -> Test:
    def matches(request: CheckInput) -> bool:
        source = request.source
        if source is None:
            return unknown
        return not test(source) if source.principal else nobody

    return matches


def principal_test(patterns: Iterable[str]) -> IdentityTest:
    """Return a test of the SPIFFE id without its scheme."""
    test = StringPatterns.of(patterns).test()
    return lambda source: test(source.principal)


def namespace_test(patterns: Iterable[str]) -> IdentityTest:
    """Return a test for `/ns/NAMESPACE/` in the SPIFFE id, where `*` stands for any characters, as Istio has it."""
    values = list(patterns)
    exact = frozenset(value for value in values if "*" not in value and "/" not in value)
    glob = glob_test((value for value in values if value not in exact), "/ns/", "/")

    def test(source: Identity) -> bool:
        return not exact.isdisjoint(source.namespaces) or glob(source.principal)

    return test


def service_account_test(accounts: Iterable[str]) -> IdentityTest:
    """Return a test for `/ns/N/`, and `sa/S` as whole segments after it, for one of the accounts `N/S`."""
    pairs = [account.split("/", 1) for account in accounts]

    def test(source: Identity) -> bool:
        for namespace, name in pairs:
            _, found, rest = source.principal.partition(f"/ns/{namespace}/")
            if found and f"/sa/{name}/" in f"/{rest}/":
                return True
        return False

    return test


def trust_domain_test(patterns: Iterable[str]) -> IdentityTest:
    """Return a test of the id's trust domain, where `*` stands for any characters."""
    values = list(patterns)
    exact = frozenset(value for value in values if "*" not in value)
    # The separators bind the glob to the whole of the trust domain: no trust domain has a slash in it.
    glob = glob_test((value for value in values if value not in exact), "/", "/")
    return lambda source: (
        source.trust_domain in exact or (source.trust_domain != "" and glob(f"/{source.trust_domain}/"))
    )


def address_tests(networks: Networks, read: Callable[[CheckInput], IpAddress | None], *, grants: bool) -> list[Test]:
    """Return the tests of the address that `read` takes from a request."""
    return _told_tests(networks.any_of, networks.none_of, network_test, read, grants=grants)


def port_tests(ports: Ports, *, grants: bool) -> list[Test]:
    """Return the tests of the destination's port."""
    return _told_tests(ports.any_of, ports.none_of, _port_test, lambda request: request.destination_port, grants=grants)


def sni_tests(patterns: Patterns, *, grants: bool) -> list[Test]:
    """Return the tests of the server name that the client asked for in TLS, which is compared with its case."""
    return _told_tests(
        patterns.any_of,
        patterns.none_of,
        lambda values: StringPatterns.of(values).test(),
        lambda request: request.sni,
        grants=grants,
    )


def _port_test(ports: Iterable[int]) -> Callable[[int], bool]:
    return frozenset(ports).__contains__


def _told_tests(
    any_of: tuple[object, ...],
    none_of: tuple[object, ...],
    make: Callable[..., Callable[..., bool]],
    read: Callable[[CheckInput], object],
    *,
    grants: bool,
) -> list[Test]:
    """Return the tests of an attribute that is None where the check does not tell it."""

    def expecting(values: tuple[object, ...], *, found: bool) -> Test:
        test = make(values)

        def matches(request: CheckInput) -> bool:
            value = read(request)
            return not grants if value is None else test(value) is found

        return matches

    tests = [expecting(any_of, found=True)] if any_of else []
    return [*tests, expecting(none_of, found=False)] if none_of else tests


def network_test(networks: Iterable[IpNetwork]) -> AddressTest:
    """Return a test whether an address is in one of the blocks: one look-up for each length of prefix among them."""
    tables: dict[tuple[type[IpAddress], int], set[int]] = {}
    for network in networks:
        shift = network.max_prefixlen - network.prefixlen
        table = tables.setdefault((type(network.network_address), shift), set())
        table.add(int(network.network_address) >> shift)

    def test(address: IpAddress) -> bool:
        number = int(address)
        return any(number >> shift in table for shift, table in by_type[type(address)])

    by_type: dict[type[IpAddress], list[tuple[int, set[int]]]] = {IPv4Address: [], IPv6Address: []}
    for (address_type, shift), table in tables.items():
        by_type[address_type].append((shift, table))
    return test


def method_tests(patterns: Patterns) -> list[Test]:
    """Return the tests of the method, which is compared with its case."""
    tests: list[Test] = []
    if patterns.any_of:
        test = StringPatterns.of(patterns.any_of).test()
        tests.append(lambda request: test(request.method))
    if patterns.none_of:
        excluded = StringPatterns.of(patterns.none_of).test()
        tests.append(lambda request: not excluded(request.method))
    return tests


def path_tests(patterns: Patterns, *, grants: bool) -> list[Test]:
    """Return the tests of the path. A wide test takes a path with one slash more at its end for the same."""
    return _told_tests(
        patterns.any_of, (), lambda values: path_test(values, wide=not grants), _path, grants=grants
    ) + _told_tests((), patterns.none_of, lambda values: path_test(values, wide=grants), _path, grants=grants)


def _path(request: CheckInput) -> str | None:
    return request.path


def path_test(patterns: Iterable[str], *, wide: bool) -> StringTest:
    """Return a test whether a path matches one of the patterns or templates."""
    values = tuple(patterns)
    plain = [value for value in values if not is_template(value)]
    if wide:
        plain += [f"{value}/" for value in plain if not value.endswith(("*", "/"))]
    tests = [template_test(value, wide=wide) for value in values if is_template(value)]
    if plain:
        tests.insert(0, StringPatterns.of(plain).test())
    if len(tests) == 1:
        return tests[0]
    return lambda path: any(test(path) for test in tests)


def host_tests(patterns: Patterns, *, grants: bool) -> list[Test]:
    """Return the tests of the authority, in lower case. A wide test takes it without its port, too."""
    return _told_tests(
        patterns.any_of, (), lambda values: host_test(values, wide=not grants), _host, grants=grants
    ) + _told_tests((), patterns.none_of, lambda values: host_test(values, wide=grants), _host, grants=grants)


def _host(request: CheckInput) -> str | None:
    return request.host


def host_test(patterns: Iterable[str], *, wide: bool) -> StringTest:
    """Return a test whether an authority in lower case matches one of the patterns, in lower case, too."""
    test = StringPatterns.of(patterns).test()
    return (lambda host: test(host) or test(without_port(host))) if wide else test


def without_port(host: str) -> str:
    """Return the authority without its port, if it has one; the colons of an IPv6 address stand in brackets."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def header_tests(name: str, patterns: Patterns, *, grants: bool) -> list[Test]:
    """Return the tests of a request header, which may have come several times or with several values in one line."""
    tests: list[Test] = []
    if patterns.any_of:
        test = header_test(patterns.any_of, wide=not grants)
        tests.append(lambda request: test(request.headers.get(name)))
    if patterns.none_of:
        excluded = header_test(patterns.none_of, wide=grants)
        tests.append(lambda request: not excluded(request.headers.get(name)))
    return tests


def header_test(patterns: Iterable[str], *, wide: bool) -> Callable[[tuple[str, ...] | None], bool]:
    """Return a test of a header's values, None if it is absent; `*` matches if it is present, even if empty.

    Envoy joins the values of repeated headers with commas, and that is what Istio compares. A narrow test wants the
    joined text and each value to match; a wide one any of them, or any element of a comma-separated list.
    """
    sorted_patterns = StringPatterns.of(patterns)
    if sorted_patterns.anything:
        return lambda values: values is not None
    test = sorted_patterns.test()

    def narrow(values: tuple[str, ...] | None) -> bool:
        if not values:
            return False
        return test(values[0]) if len(values) == 1 else test(",".join(values)) and all(map(test, values))

    def any_reading(values: tuple[str, ...] | None) -> bool:
        if not values:
            return False
        joined = ",".join(values)
        return test(joined) or any(map(test, values)) or any(test(part.strip()) for part in joined.split(","))

    return any_reading if wide else narrow
