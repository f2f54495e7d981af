"""What Envoy decides with the RBAC filters that Istio makes of policies: plain matches on one reading of the request.

A value that is missing matches nothing, and so satisfies every notValues.
"""

import re

from app.authz.model import Action, Attribute, AuthorizationPolicy, AuthzOptions, CheckInput
from tests.fakes import naive_policy as naive


def decide(policies: list[AuthorizationPolicy], check: CheckInput, options: AuthzOptions) -> bool:
    """Whether the request is allowed."""
    applied = [policy for policy in policies if naive.applies(policy, check, options) and not policy.dry_run]
    allowing = [policy for policy in applied if policy.action is Action.ALLOW]
    denying = [policy for policy in applied if policy.action is Action.DENY]

    def hit(found):
        rules = [rule for policy in found for rule in policy.rules]
        if check.is_tcp:
            rules = [naive.for_tcp(rule, policy.action) for policy in found for rule in policy.rules]
        return any(_matches(rule, check, options) for rule in rules if rule is not None)

    return not hit(denying) and (not allowing or hit(allowing))


def _matches(rule, check, options) -> bool:
    sources = [all(_source(source, check, options)) for source in rule.sources]
    operations = [all(_operation(operation, check)) for operation in rule.operations]
    conditions = [_condition(condition, check, options) for condition in rule.conditions]
    return (any(sources) or not sources) and (any(operations) or not operations) and all(conditions)


def _source(source, check, options):
    for attribute, values in (
        (Attribute.SOURCE_PRINCIPAL, source.principals),
        (Attribute.SOURCE_NAMESPACE, source.namespaces),
        (Attribute.SOURCE_SERVICE_ACCOUNT, source.service_accounts),
        (Attribute.SOURCE_TRUST_DOMAIN, source.trust_domains),
        (Attribute.SOURCE_IP, source.ip_blocks),
        (Attribute.REMOTE_IP, source.remote_ip_blocks),
    ):
        yield _attribute(attribute, values, check, options)


def _operation(operation, check):
    yield _text(operation.methods, check.method, _header_expression)
    yield _text(operation.paths, check.path, naive.path_expression)
    yield _text(operation.hosts, check.host, _header_expression)
    yield _field(operation.ports, check.connection.destination_port, lambda value, port: value == port)


def _condition(condition, check, options) -> bool:
    if condition.attribute is Attribute.HEADER:
        found = check.headers.get(condition.header)
        return _field(condition.values, found, lambda one, values: any(_is(_header_expression(one), v) for v in values))
    return _attribute(condition.attribute, condition.values, check, options)


def _attribute(attribute, values, check, options) -> bool:
    match attribute:
        case Attribute.SOURCE_IP:
            return _field(values, check.connection.source_ip, _in_block)
        case Attribute.REMOTE_IP:
            return _field(values, check.remote_ip, _in_block)
        case Attribute.DESTINATION_IP:
            return _field(values, check.connection.destination_ip, _in_block)
        case Attribute.DESTINATION_PORT:
            return _field(values, check.connection.destination_port, lambda value, port: value == port)
        case Attribute.SNI:
            return _text(values, check.connection.sni)
        case Attribute.METHOD:
            return _text(values, check.method, _header_expression)
    expressions = {
        Attribute.SOURCE_PRINCIPAL: lambda value: ".+" if value == "*" else naive.principal_expression(value, options),
        Attribute.SOURCE_NAMESPACE: naive.namespace_expression,
        Attribute.SOURCE_SERVICE_ACCOUNT: naive.account_expression,
        Attribute.SOURCE_TRUST_DOMAIN: lambda value: naive.trust_domain_expression(value, options),
    }
    names = check.connection.source.names if check.connection.source else ()
    return _field(
        values, names, lambda one, all_: any(re.fullmatch(expressions[attribute](one), name) for name in all_)
    )


def _header_expression(value: str) -> str:
    return ".*" if value == "*" else naive.string_expression(value)


def _in_block(block, address) -> bool:
    return block.version == address.version and address in block


def _text(patterns, value, expression=naive.string_expression) -> bool:
    return _field(patterns, value, lambda one, text: _is(expression(one), text))


def _is(expression, text) -> bool:
    return re.fullmatch(expression, text, re.DOTALL) is not None


def _field(patterns, value, matches) -> bool:
    def hit(values) -> bool:
        return value is not None and any(matches(one, value) for one in values)

    return (not patterns.any_of or hit(patterns.any_of)) and not hit(patterns.none_of)
