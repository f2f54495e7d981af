"""The same decisions without any index: every policy, rule and value is walked, with regular expressions."""

import re
from ipaddress import ip_address

from app.authz.model import (
    Action,
    Attribute,
    AuthorizationPolicy,
    AuthzOptions,
    CheckInput,
    Networks,
    Operation,
    Patterns,
    Rule,
)


def decide(policies: list[AuthorizationPolicy], check: CheckInput, options: AuthzOptions) -> bool:
    """Whether the request is allowed, one reading of it alone."""
    enforced = [policy for policy in policies if applies(policy, check, options) and not policy.dry_run]
    if any_matches(enforced, Action.DENY, check, options):
        return False
    allowing = any(policy.action is Action.ALLOW for policy in enforced)
    return not allowing or any_matches(enforced, Action.ALLOW, check, options)


def observed(policies: list[AuthorizationPolicy], check: CheckInput, options: AuthzOptions) -> dict[str, str]:
    """What is recorded of the policies that decide nothing."""
    applied = [policy for policy in policies if applies(policy, check, options)]
    dry = [policy for policy in applied if policy.dry_run]
    found = {}
    if any_matches(applied, Action.AUDIT, check, options):
        found["audit"] = "matched"
    if any(policy.action is Action.DENY for policy in dry):
        found["dry_run_deny"] = "denied" if any_matches(dry, Action.DENY, check, options) else "allowed"
    if any(policy.action is Action.ALLOW for policy in dry):
        found["dry_run_allow"] = "allowed" if any_matches(dry, Action.ALLOW, check, options) else "denied"
    return found


def applies(policy: AuthorizationPolicy, check: CheckInput, options: AuthzOptions) -> bool:
    labels = dict(check.connection.workload.labels or ())

    def in_scope(scope) -> bool:
        in_namespace = check.connection.workload.namespace == policy.namespace or (
            policy.namespace == options.root_namespace and not scope.local
        )
        return in_namespace and all(labels.get(key) == value for key, value in scope.labels)

    return any(map(in_scope, policy.scopes))


def any_matches(policies, action: Action, check: CheckInput, options: AuthzOptions) -> bool:
    found = [policy for policy in policies if policy.action is action]
    return any(rule_matches(rule, check, action, options) for policy in found for rule in policy.rules)


def rule_matches(rule: Rule, check: CheckInput, action: Action, options: AuthzOptions) -> bool:
    action = Action.ALLOW if action is Action.ALLOW else Action.DENY
    if check.is_tcp:
        found = for_tcp(rule, action)
        if found is None:
            return False
        rule = found
    froms = [all(fields) for fields in (source_fields(s, check, action, options) for s in rule.sources)]
    tos = [all(fields) for fields in (operation_fields(o, check, action) for o in rule.operations)]
    whens = [condition_matches(c, check, action, options) for c in rule.conditions]
    return (any(froms) or not froms) and (any(tos) or not tos) and all(whens)


def for_tcp(rule: Rule, action: Action) -> Rule | None:
    """What Istio makes of a rule for TCP: what only HTTP has is left out, and with it an ALLOW rule as a whole."""
    operations = tuple(Operation(ports=operation.ports) for operation in rule.operations)
    http = Attribute.HEADER, Attribute.METHOD
    conditions = tuple(each for each in rule.conditions if each.attribute not in http or each.values == Patterns())
    found = Rule(rule.sources, operations, conditions)
    return None if action is Action.ALLOW and found != rule else found


def source_fields(source, check, action, options):
    yield identity(source.principals, check, action, lambda value: principal_expression(value, options))
    yield identity(source.namespaces, check, action, namespace_expression)
    yield identity(source.service_accounts, check, action, account_expression)
    yield identity(source.trust_domains, check, action, lambda value: trust_domain_expression(value, options))
    yield network(source.ip_blocks, check.connection.source_ip, action)
    yield remote(source.remote_ip_blocks, check, action)


def operation_fields(operation, check, action):
    yield methods(operation.methods, check, action)
    path = check.path
    yield plain(operation.paths, None if path is None else [path], action, path_expression, lax_end="/?")
    yield authority(operation.hosts, check.host, action)
    yield told(
        operation.ports.any_of,
        operation.ports.none_of,
        check.connection.destination_port,
        action,
        lambda values, port: port in values,
    )


def condition_matches(condition, check, action, options):
    values = condition.values
    match condition.attribute:
        case Attribute.SOURCE_IP:
            return network(values, check.connection.source_ip, action)
        case Attribute.REMOTE_IP:
            return remote(values, check, action)
        case Attribute.DESTINATION_IP:
            return network(values, check.connection.destination_ip, action)
        case Attribute.DESTINATION_PORT:
            return told(
                values.any_of, values.none_of, check.connection.destination_port, action, lambda all_, one: one in all_
            )
        case Attribute.SNI:
            return server_name(values, check.connection.sni, action)
        case Attribute.METHOD:
            return methods(values, check, action)
        case Attribute.HEADER:
            return named_header(condition.header, values, check, action)
    expressions = {
        Attribute.SOURCE_PRINCIPAL: lambda value: principal_expression(value, options),
        Attribute.SOURCE_NAMESPACE: namespace_expression,
        Attribute.SOURCE_SERVICE_ACCOUNT: account_expression,
        Attribute.SOURCE_TRUST_DOMAIN: lambda value: trust_domain_expression(value, options),
    }
    return identity(values, check, action, expressions[condition.attribute])


def named_header(name: str, values: Patterns, check: CheckInput, action: Action) -> bool:
    if name == ":path":
        return target(values, check, action)
    if name == ":authority":
        return pseudo_authority(values, check, action)
    return header(values, check.headers.get(name), action)


def methods(patterns: Patterns, check: CheckInput, action: Action) -> bool:
    """Where a match leads to a denial, a method in lower case is taken for the one in upper case, too."""
    upper = tuple(value.upper() for value in patterns.any_of), tuple(value.upper() for value in patterns.none_of)
    if action is Action.DENY:
        return plain(Patterns(patterns.any_of + upper[0], patterns.none_of), [check.method], action)
    return plain(Patterns(patterns.any_of, patterns.none_of + upper[1]), [check.method], action)


def pseudo(patterns: Patterns, check: CheckInput, action: Action, name: str, other) -> bool:
    """A pseudo-header: as it was sent, and where a match leads to a denial also as the field that it fills."""
    sent = check.headers.get(name)
    if patterns == Patterns():
        return True
    if action is Action.ALLOW:
        if sent is None:
            return False
        return header(patterns, sent, action) and (not patterns.none_of or other(Patterns((), patterns.none_of)))
    if sent is None:
        return True
    values, others = Patterns(patterns.any_of), Patterns((), patterns.none_of)
    return header(others, sent, action) and (not patterns.any_of or header(values, sent, action) or other(values))


def target(patterns: Patterns, check: CheckInput, action: Action) -> bool:
    def path(some: Patterns) -> bool:
        found = None if check.path is None else [check.path]
        return plain(some, found, action, path_expression, lax_end="/?")

    return pseudo(patterns, check, action, ":path", path)


def pseudo_authority(patterns: Patterns, check: CheckInput, action: Action) -> bool:
    def host(some: Patterns) -> bool:
        lowered = Patterns(*(tuple(value.lower() for value in values) for values in (some.any_of, some.none_of)))
        return authority(lowered, check.host, action)

    return pseudo(patterns, check, action, ":authority", host)


def string_expression(value: str) -> str:
    if value == "*":
        return ".+"
    if value.startswith("*"):
        return ".*" + re.escape(value[1:])
    if value.endswith("*"):
        return re.escape(value[:-1]) + ".*"
    return re.escape(value)


def path_expression(value: str) -> str:
    if "{" not in value:
        return string_expression(value)
    segment = r"[a-zA-Z0-9\-._~%!$&'()*+,;:@=]"
    escaped = re.escape(value)
    return escaped.replace(re.escape("{**}"), segment.replace("]", "/]") + "*").replace(re.escape("{*}"), segment + "+")


def principal_expression(value: str, options: AuthzOptions) -> str:
    domains = [options.trust_domain, *options.trust_domain_aliases]
    domain, _, path = value.partition("/")
    if value.count("/") == 4 and domain in {*domains, "cluster.local"}:
        return "spiffe://(?:" + "|".join(map(re.escape, domains)) + ")/" + re.escape(path).replace(r"\*", ".*")
    return "spiffe://" + string_expression(value)


def namespace_expression(value: str) -> str:
    return ".*/ns/" + ".*".join(map(re.escape, value.split("*"))) + "/.*"


def account_expression(value: str) -> str:
    namespace, name = value.split("/")
    return f"spiffe://.+/ns/{re.escape(namespace)}/(.+/|)sa/{re.escape(name)}(/.+)?"


def trust_domain_expression(value: str, options: AuthzOptions) -> str:
    if value == "*":
        return "spiffe://.*"
    names = [options.trust_domain, *options.trust_domain_aliases]
    spelled = names if value in names else [value]
    return "spiffe://(?:" + "|".join("[^/]*".join(map(re.escape, each.split("*"))) for each in spelled) + ")/.*"


def identity(patterns: Patterns, check: CheckInput, action: Action, expression) -> bool:
    if patterns == Patterns():
        return True
    if check.connection.source is None:
        return action is Action.DENY

    def hit(values):
        return check.connection.source.principal != "" and any(
            re.fullmatch(expression(value), f"spiffe://{check.connection.source.principal}") for value in values
        )

    if patterns.any_of and not hit(patterns.any_of):
        return False
    if not patterns.none_of:
        return True
    if not check.connection.source.principal:
        return action is Action.DENY or "*" in patterns.none_of
    return not hit(patterns.none_of)


def told(any_of, none_of, value, action, hit) -> bool:
    if not any_of and not none_of:
        return True
    if value is None:
        return action is Action.DENY
    return (not any_of or hit(any_of, value)) and (not none_of or not hit(none_of, value))


def network(networks: Networks, address, action: Action) -> bool:
    if networks == Networks():
        return True
    if address is None:
        return action is Action.DENY
    denies = action is Action.DENY

    def hit(blocks, *, wide):
        forms = {f"{address}"}
        if wide:
            number = int(address)
            forms |= {f"::ffff:{address}"} if address.version == 4 else set()
            forms |= {f"{ip_address(number & 0xFFFFFFFF)}"} if number >> 32 == 0xFFFF else set()
        return any(ip_address(form) in block for form in forms for block in blocks if block.prefixlen or "." in form)

    return (not networks.any_of or hit(networks.any_of, wide=denies)) and not hit(networks.none_of, wide=not denies)


def remote(networks: Networks, check: CheckInput, action: Action) -> bool:
    if networks == Networks():
        return True
    addresses = [check.remote_ip]
    if forwarded := check.headers.get("x-forwarded-for"):
        addresses.append(ip_address(forwarded[-1].split(",")[-1].strip()))

    def each(part):
        results = [network(part, address, action) for address in addresses]
        return any(results) if action is Action.DENY else all(results)

    return each(Networks(networks.any_of)) and each(Networks(none_of=networks.none_of))


def authority(patterns: Patterns, host, action: Action) -> bool:
    name, dot, port = re.fullmatch(r"(.*?)(\.?)(:[0-9]+)?", host or "").groups(default="")
    readings = [host, name + dot, name + port, name]
    return read(patterns, readings, [host], action, lambda value: re.sub(r"(?<=[^*])\.(?=(:[0-9]+)?$)", "", value))


def server_name(patterns: Patterns, name, action: Action) -> bool:
    lowered = (name or "").lower()
    readings = [name, lowered, lowered.removesuffix(".")]
    return read(patterns, readings, [name, lowered], action, str.lower)


def read(patterns: Patterns, wide, narrow, action: Action, respell) -> bool:
    """A name of several readings: one of the `wide` has to match where that denies, else all of the `narrow`."""
    if patterns == Patterns():
        return True
    if narrow[0] is None:
        return action is Action.DENY
    denies = action is Action.DENY

    def hit(values, *, is_wide):
        spellings = [*values, *map(respell, values)] if is_wide else values
        results = [
            any(re.fullmatch(string_expression(value), text) for value in spellings)
            for text in (wide if is_wide else narrow)
        ]
        return any(results) if is_wide else all(results)

    return (not patterns.any_of or hit(patterns.any_of, is_wide=denies)) and not (
        patterns.none_of and hit(patterns.none_of, is_wide=not denies)
    )


def plain(patterns: Patterns, values, action: Action, expression=string_expression, lax_end="") -> bool:
    """A field of one value: the lax end is let through where a match leads to a denial."""

    def hit(all_, value, *, wide):
        end = lax_end if wide else ""
        return any(
            re.fullmatch(expression(one) + (end if not one.endswith("*") else ""), value) is not None for one in all_
        )

    if patterns == Patterns():
        return True
    if values is None:
        return action is Action.DENY
    (value,) = values
    denies = action is Action.DENY
    return (not patterns.any_of or hit(patterns.any_of, value, wide=denies)) and not (
        patterns.none_of and hit(patterns.none_of, value, wide=not denies)
    )


def header(patterns: Patterns, values, action: Action) -> bool:
    def hit(all_, *, wide):
        if "*" in all_:
            return values is not None
        if values is None:
            return False
        joined = ",".join(values)
        matched = [any(re.fullmatch(string_expression(one), v, re.DOTALL) for one in all_) for v in (joined, *values)]
        if not wide:
            return all(matched)
        parts = [part.strip() for part in joined.split(",")]
        return any(matched) or any(
            re.fullmatch(string_expression(one), part, re.DOTALL) for one in all_ for part in parts
        )

    denies = action is Action.DENY
    return (not patterns.any_of or hit(patterns.any_of, wide=denies)) and not (
        patterns.none_of and hit(patterns.none_of, wide=not denies)
    )
