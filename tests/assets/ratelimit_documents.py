"""Configurations in the schema of envoyproxy/ratelimit, with what it does with each: loads it or refuses it."""

import random


def descriptors(*texts: str) -> str:
    return "domain: d\ndescriptors:\n" + "".join(f"- {text}\n" for text in texts)


def limit(fields: str) -> str:
    return descriptors(f"{{key: k, rate_limit: {fields}}}")


def nested(depth: int) -> str:
    text = "{key: k}"
    for _ in range(depth - 1):
        text = f"{{key: k, descriptors: [{text}]}}"
    return descriptors(text)


def many(number: int) -> str:
    return descriptors(
        *[
            f"{{key: path, value: /{each}, rate_limit: {{unit: minute, requests_per_unit: 1}}}}"
            for each in range(number)
        ]
    )


LOADED = (
    "domain: d",
    "domain: d\ndescriptors:",
    "domain: 5",
    "domain: true\ndescriptors: ~",
    descriptors("{key: k, value: , rate_limit: , descriptors: , shadow_mode: }"),
    descriptors("{key: 5, value: 6}", "{key: true, value: False}", "{key: 0x1F}", "{key: 1_000}", "{key: 2026-11-22}"),
    descriptors("{key: k, quota_mode: false, share_threshold: off, value_to_metric: n, detailed_metric: False}"),
    descriptors("{key: k, shadow_mode: yes, rate_limit: {unit: day, requests_per_unit: 1}}"),
    descriptors("{key: k, shadow_mode: true, quota_mode: true, value_to_metric: true, detailed_metric: true}"),
    descriptors("{key: k, value: 'a*', share_threshold: true}", "{key: k, value: '*', share_threshold: true}"),
    descriptors("{key: a, value: b}", "{key: a}", "{key: a, value: '*'}"),
    descriptors("{key: a, descriptors: [{key: c}]}", "{key: b, descriptors: [{key: c}]}"),
    limit("{unit: WEEK, requests_per_unit: 4294967295, name: 5, replaces: [{name: 6}]}"),
    limit("{unit: day, requests_per_unit: 1, unlimited: , name: , replaces: }"),
    limit("{unlimited: true, unit: }"),
    limit("{unlimited: yes}"),
    limit("{unlimited: true, requests_per_unit: 1}"),
    descriptors("&a {key: k, rate_limit: {unit: day, requests_per_unit: 1}}", "{<<: *a, key: l}", "{<<: [*a], key: m}"),
    descriptors("{<<: {key: k}, value: v}"),
    nested(60),
    many(13_000),
)

REFUSED = (
    "",
    "descriptors: []",
    "domain: ",
    "domain: 1.5",
    "domain: []",
    "domain: d\nlimits: ",
    "domain: d\ndescriptors: {}",
    "domain: d\ndescriptors: [k]",
    "domain: d\ndescriptors: [~]",
    descriptors("{}"),
    descriptors("{key: }"),
    descriptors("{key: ''}"),
    descriptors("{key: 1.5}"),
    descriptors("{key: [a]}"),
    descriptors("{1: k}"),
    descriptors("{key: k, keys: }"),
    descriptors("{key: k, shadow_mode: 1}"),
    descriptors("{key: k, share_threshold: true}"),
    descriptors("{key: k, value: a, share_threshold: true}"),
    descriptors("{key: k, metadata: {}}"),
    descriptors("{key: k, rate_limit: []}"),
    descriptors("{key: k}", "{key: k}"),
    descriptors("{key: a_b, value: c}", "{key: a, value: b_c}"),
    descriptors("{key: a_b}", "{key: a, value: b}"),
    descriptors("{key: a, descriptors: [{key: b, value: c}, {key: b_c}]}"),
    descriptors("&a {key: k}", "{<<: *a}"),
    descriptors("{<<: k}"),
    limit("{}"),
    limit("{requests_per_unit: 1}"),
    limit("{unit: , requests_per_unit: 1}"),
    limit("{unit: unknown, requests_per_unit: 1}"),
    limit("{unit: eon, requests_per_unit: 1}"),
    limit("{unit: day, requests_per_unit: -1}"),
    limit("{unit: day, requests_per_unit: 4294967296}"),
    limit("{unit: day, requests_per_unit: '1'}"),
    limit("{unit: day, requests_per_unit: true}"),
    limit("{unit: day, requests_per_unit: 1.5}"),
    limit("{unit: day, requests_per_unit: 1, name: a, replaces: [{name: a}]}"),
    limit("{unit: day, requests_per_unit: 1, name: a, replaces: [{}]}"),
    limit("{unit: day, requests_per_unit: 1, replaces: x}"),
    limit("{unlimited: true, unit: day}"),
)

# What the guide names: documents that it loads, and that are refused here.
LOADED_BY_IT_ALONE = {
    "a field that is not known where it is": descriptors("{key: k, unit: day}"),
    "a key twice": descriptors("{key: k, value: a, value: b}"),
    "a key or an anchor as a key": descriptors("{&k key: k}"),
    "a limit without a number": limit("{unit: day}"),
    "a number in another base": limit("{unit: day, requests_per_unit: 0x10}"),
    "an unknown unit beside unlimited": limit("{unlimited: true, unit: eon}"),
    "a wildcard in a key": descriptors("{key: k*}"),
    "fields of a merged mapping inside a field": descriptors(
        "&a {key: k, rate_limit: {unit: day, requests_per_unit: 1}}",
        "{<<: *a, key: l, rate_limit: {requests_per_unit: 2}}",
    ),
    "a domain that cannot be printed": 'domain: "a\\tb"',
    "a name that fits no header": limit("{unit: day, requests_per_unit: 1, name: 'é'}"),
    "more than 8 wildcards": descriptors("{key: k, value: '*********'}"),
    "more levels than a request has entries": nested(101),
}

# And documents that are loaded here alone.
REFUSED_BY_IT_ALONE = {
    "a number as text that is not an integer": descriptors("{key: .5}"),
    "an integer as text beyond 64 bits": descriptors("{key: 18446744073709551615}"),
    "several documents as a list": "[{domain: d}]",
    "share_threshold with a wildcard inside the value": descriptors("{key: k, value: 'a*b', share_threshold: true}"),
}

_KEYS = ("a", "a_b", "b", "a_b_c", "5", "true", "0x1F", "'q'", '"a b"', "Null", "yes")
_VALUES = ("", "b", "b_c", "c", "7", "false", "~", "''", "'*'", "x*", "2026-11-22", "1_000")
_NAMES = ("n", "'m'", "5", "true", "", "~")
_UNITS = ("second", "MINUTE", "Hour", "day", "week", "month", "year")
_NUMBERS = ("0", "1", "4294967295")
_OFF = ("false", "False", "no", "off", "", "~")
_WRONG = ("1.5", "[a]", "{}", "", "[]", "'x'", "-1", "1e3", "~", "[{}]", "true")


def generated(seed: int) -> str:
    """Return a configuration that is mostly valid, in what both of us read and refuse alike."""
    return _Writer(random.Random(seed)).document()


class _Writer:
    def __init__(self, source: random.Random) -> None:
        self._source = source
        self._anchors: list[str] = []
        self._wrong = source.random() < 0.5

    def document(self) -> str:
        fields = {"domain": self._pick("d", "5", "true", "'a b'"), "descriptors": self._descriptors(0)}
        return "\n".join(f"{key}: {value}" for key, value in self._spoiled(fields).items())

    def _pick(self, *options: str) -> str:
        return self._source.choice(options)

    def _happens(self, chance: float) -> bool:
        return self._source.random() < chance

    def _spoiled(self, fields: dict[str, str]) -> dict[str, str]:
        """Return the fields, now and then with one that is wrong."""
        if self._wrong and self._happens(0.1):
            wrong = self._pick(*fields, "unknown")
            # A limit without a number is a difference that is named.
            if wrong != "requests_per_unit":
                fields[wrong] = self._pick(*_WRONG)
        return fields

    def _descriptors(self, depth: int) -> str:
        number = self._source.randint(0, 4 if depth < 3 else 0)
        if depth == 0 and self._happens(0.05):
            return nested(self._source.randint(20, 100)).partition("descriptors:\n- ")[2].join("[]")
        return "[" + ", ".join(self._descriptor(depth) for _ in range(number)) + "]"

    def _descriptor(self, depth: int) -> str:
        fields: dict[str, str] = {}
        if self._anchors and self._happens(0.2):
            fields["<<"] = self._pick(*self._anchors)
        fields["key"] = self._pick(*_KEYS)
        if self._happens(0.6):
            fields["value"] = self._pick(*_VALUES)
        if "<<" not in fields and self._happens(0.5):
            fields["rate_limit"] = self._pick("~", self._limit(), self._limit())
            if fields["rate_limit"] != "~":
                fields["shadow_mode"] = self._pick("true", "yes", *_OFF)
        if self._happens(0.2):
            flag = self._pick("quota_mode", "share_threshold", "value_to_metric", "detailed_metric")
            fields[flag] = self._pick("true", "on", *_OFF)
        if self._happens(0.3):
            fields["descriptors"] = self._descriptors(depth + 1)
        text = _mapping(self._spoiled(fields))
        if depth == 0 and self._happens(0.3):
            anchor = f"a{len(self._anchors)}"
            self._anchors.append(f"*{anchor}")
            return f"&{anchor} {text}"
        return text

    def _limit(self) -> str:
        fields = {"unit": self._pick(*_UNITS), "requests_per_unit": self._pick(*_NUMBERS)}
        if self._happens(0.2):
            fields = {"unlimited": self._pick("true", "on")}
        elif self._happens(0.2):
            fields["unlimited"] = self._pick(*_OFF)
        if self._happens(0.5):
            fields["name"] = self._pick(*_NAMES)
        if self._happens(0.3):
            fields["replaces"] = "[" + ", ".join(f"{{name: {self._pick(*_NAMES)}}}" for _ in range(2)) + "]"
        return _mapping(self._spoiled(fields))


def _mapping(fields: dict[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in fields.items()) + "}"
