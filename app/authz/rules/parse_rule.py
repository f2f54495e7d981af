"""One entry of `spec.rules`: sources, operations and conditions."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from app.authz.model import Attribute, Condition, Networks, Operation, Patterns, Ports, Rule, Source
from app.authz.rules import values
from app.authz.rules.nodes import AUTHORITY
from app.authz.rules.values import MAX_SERVICE_ACCOUNTS, read_networks, read_patterns, read_ports
from app.documents.reader import Reader

_HEADER_KEY = re.compile(r"request\.headers\[(:?[!#$%&'*+.^_`|~0-9A-Za-z-]+)\]")
_CLAIM_KEY = re.compile(r"request\.auth\.claims((?:\[[^\[\]]{1,256}\]){1,16})")
_VALUES = "values", "notValues"
_CLAIM_NAME = re.compile(r"\[([^\[\]]+)\]")
_METADATA_KEY = re.compile(r"experimental\.(envoy\.filters\.[^\[\]]{1,256})\[([^\[\]]{1,256})\]")

_Part = TypeVar("_Part")
_Values = Patterns | Networks | Ports
_ReadValues = Callable[[Reader, str, str], _Values]

_CONDITIONS: dict[Attribute, _ReadValues] = {
    Attribute.SOURCE_IP: read_networks,
    Attribute.REMOTE_IP: read_networks,
    Attribute.SOURCE_PRINCIPAL: partial(read_patterns, read=values.text),
    Attribute.SOURCE_NAMESPACE: partial(read_patterns, read=values.text),
    Attribute.SOURCE_TRUST_DOMAIN: partial(read_patterns, read=values.trust_domain),
    Attribute.DESTINATION_IP: read_networks,
    Attribute.DESTINATION_PORT: read_ports,
    Attribute.SNI: partial(read_patterns, read=values.text),
    Attribute.REQUEST_PRINCIPAL: partial(read_patterns, read=values.text),
    Attribute.AUDIENCES: partial(read_patterns, read=values.text),
    Attribute.PRESENTER: partial(read_patterns, read=values.text),
}


def read_rule(rule: Reader, namespace: str) -> Rule:
    """Return the rule of a policy in `namespace`; `{}` is the rule that always matches."""
    sources = tuple(_parts(rule, "from", "source", partial(_read_source, namespace=namespace)))
    operations = tuple(_parts(rule, "to", "operation", _read_operation))
    conditions = tuple(
        condition for reader in rule.children("when") if (condition := _read_condition(reader, namespace)) is not None
    )
    rule.close()
    return Rule(sources, operations, conditions)


def _parts(rule: Reader, name: str, inner: str, read: Callable[[Reader], _Part]) -> Iterator[_Part]:
    """Yield what `read` makes of each item's only field `inner`, of which one list at least is not empty."""
    for outer in rule.children(name):
        part = outer.child(inner)
        if part is not None and part.value:
            yield read(part)
            part.close()
        given = outer.value.get(inner)
        if not given or (isinstance(given, dict) and all(value == [] for value in given.values())):
            outer.refuse(inner, "must not be empty: name what it matches")
        outer.close()


def _read_source(source: Reader, namespace: str) -> Source:
    accounts = [name for name in ("serviceAccounts", "notServiceAccounts") if source.value.get(name)]
    others = [name for name in ("principals", "notPrincipals", "namespaces", "notNamespaces") if source.value.get(name)]
    if accounts and others:
        source.refuse(accounts[0], f"cannot be set beside {others[0]}: a service account is both")
    return Source(
        principals=read_patterns(source, "principals", "notPrincipals", values.text),
        request_principals=read_patterns(source, "requestPrincipals", "notRequestPrincipals", values.text),
        namespaces=read_patterns(source, "namespaces", "notNamespaces", values.text),
        service_accounts=_read_accounts(source, "serviceAccounts", "notServiceAccounts", namespace),
        trust_domains=read_patterns(source, "trustDomains", "notTrustDomains", values.trust_domain),
        ip_blocks=read_networks(source, "ipBlocks", "notIpBlocks"),
        remote_ip_blocks=read_networks(source, "remoteIpBlocks", "notRemoteIpBlocks"),
    )


def _read_accounts(reader: Reader, name: str, negated: str, namespace: str) -> Patterns:
    for field in (name, negated):
        value = reader.value.get(field)
        if isinstance(value, list) and len(value) > MAX_SERVICE_ACCOUNTS:
            reader.refuse(field, f"must not list more than {MAX_SERVICE_ACCOUNTS} service accounts")
            return Patterns()
    return read_patterns(reader, name, negated, values.service_account(namespace))


def _read_operation(operation: Reader) -> Operation:
    return Operation(
        hosts=read_patterns(operation, "hosts", "notHosts", values.host),
        methods=read_patterns(operation, "methods", "notMethods", values.text),
        paths=read_patterns(operation, "paths", "notPaths", values.path_pattern),
        ports=read_ports(operation, "ports", "notPorts"),
    )


def _read_condition(condition: Reader, namespace: str) -> Condition | None:
    key = condition.text("key")
    if not key:
        condition.refuse("key", "must not be empty: name an attribute")
        condition.taken.update(_VALUES)
        condition.close()
        return None
    if all(condition.value.get(name, []) == [] for name in _VALUES):
        condition.refuse("values", "must not be empty: give values or notValues")
    found = _read_key(condition, key, namespace)
    condition.taken.update(_VALUES)
    condition.close()
    return found


def _read_key(condition: Reader, key: str, namespace: str) -> Condition | None:
    if key.startswith((Attribute.CLAIM.value, Attribute.METADATA.value)):
        return _read_nested(condition, key)
    if key.startswith("request.headers"):
        return _read_header(condition, key)
    if key == Attribute.SOURCE_SERVICE_ACCOUNT.value:
        accounts = _read_accounts(condition, "values", "notValues", namespace)
        return Condition(Attribute.SOURCE_SERVICE_ACCOUNT, accounts)
    for attribute, read in _CONDITIONS.items():
        if key == attribute.value:
            return Condition(attribute, read(condition, "values", "notValues"))
    condition.refuse("key", f"{key!r} is not a key that a condition can have")
    return None


def _read_nested(condition: Reader, key: str) -> Condition | None:
    """Return the condition on a claim, `request.auth.claims[realm][roles]`, or on what a filter of the proxy found."""
    given = read_patterns(condition, "values", "notValues", values.text)
    if claim := _CLAIM_KEY.fullmatch(key):
        return Condition(Attribute.CLAIM, given, keys=tuple(_CLAIM_NAME.findall(claim[1])))
    if found := _METADATA_KEY.fullmatch(key):
        return Condition(Attribute.METADATA, given, keys=(found[1], found[2]))
    form = (
        "request.auth.claims[NAME]" if key.startswith(Attribute.CLAIM.value) else "experimental.envoy.filters.NAME[KEY]"
    )
    condition.refuse("key", f"{key!r} names nothing that can be compared: write {form}")
    return None


def _read_header(condition: Reader, key: str) -> Condition | None:
    name = _HEADER_KEY.fullmatch(key)
    if name is None:
        condition.refuse("key", f"{key!r} does not name a header: write request.headers[x-name]")
        return None
    header = name[1].lower()
    if header == ":method":
        return Condition(Attribute.METHOD, read_patterns(condition, "values", "notValues", values.text))
    if header == "host":
        header = AUTHORITY  # which is what Envoy makes of it
    return Condition(Attribute.HEADER, read_patterns(condition, "values", "notValues", values.text), header)
