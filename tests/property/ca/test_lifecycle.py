"""Whatever is asked of authorities, in any order: one root signs, and what is revoked stays so."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.ca.model import AuthorityStage, Origin, Root, Signer, Stage
from app.ca.rules.lifecycle import (
    Trust,
    activated,
    activating,
    adopted,
    completed,
    followed,
    held_back,
    prepared,
    revoked,
    tainted,
)
from app.core.errors import NotFoundError, PreconditionError
from app.spiffe.id import TrustDomain

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DOMAIN = TrustDomain("example.org")
ALLOWED = {
    "ask": {Stage.PREPARED, Stage.OLD},
    "complete": {Stage.ACTIVATING},
    "hold back": {Stage.ACTIVATING},
    "force": {Stage.PREPARED, Stage.ACTIVATING, Stage.OLD},
    "taint": {Stage.OLD},
    "revoke": {Stage.TAINTED, Stage.PREPARED, Stage.ACTIVATING, Stage.VERIFY_ONLY},
}
RULES = {"ask": activating, "complete": completed, "hold back": held_back, "force": activated, "revoke": revoked}
STEPS = st.lists(st.tuples(st.sampled_from(["prepare", *ALLOWED]), st.integers(0, 5)), max_size=30)


def root(number):
    return Root(f"root-{number}", number, DOMAIN, f"certificate {number}", NOW, NOW + timedelta(days=3650), NOW)


def signer(of):
    return Signer(f"signer-of-{of.id}", of.id, "certificate", of.not_before, of.not_after)


FIRST = Trust.of([root(1)], [AuthorityStage("root-1", Stage.ACTIVE, 1, NOW)])


def taken(trust, step, index):
    """The trust after a step on the root with an index, and the changes; the same trust if it was refused."""
    try:
        if step == "prepare":
            new = root(len(trust.roots) + 1)
            trust = Trust((*trust.roots, new), trust.stages)
            changes = prepared(trust, new.id, NOW)
        else:
            target = f"root-{index + 1}"
            changes = tainted(trust, target, NOW, ()) if step == "taint" else RULES[step](trust, target, NOW)
    except (PreconditionError, NotFoundError):
        return None, ()
    return Trust(trust.roots, {**trust.stages, **{each.id: each for each in changes}}), changes


@given(STEPS)
def test_the_laws_of_the_life_of_roots(steps):
    trust, gone = FIRST, set()
    for step, index in steps:
        before = trust.stage(f"root-{index + 1}")
        after, changes = taken(trust, step, index)
        if step == "prepare":
            assert (after is None) == (trust.prepared is not None)
        else:
            assert (after is None) == (before not in ALLOWED[step])
        if after is None:
            continue
        assert all(change.number > trust.sequence for change in changes)
        trust = after
        at = {stage: [each.id for each in trust.roots if trust.stage(each.id) is stage] for stage in Stage}
        assert len(at[Stage.ACTIVE]) == 1
        assert len(at[Stage.PREPARED]) + len(at[Stage.ACTIVATING]) <= 1
        in_bundle = {each.id for each in trust.trusted}
        assert in_bundle == {each.id for each in trust.roots} - set(at[Stage.REVOKED])
        assert gone <= set(at[Stage.REVOKED])
        gone = set(at[Stage.REVOKED])
        for each in trust.roots:
            own = signer(each)
            assert trust.may_sign(own) == (trust.stage(each.id) in {Stage.ACTIVE, Stage.OLD})
            assert trust.is_withdrawn(own) == (trust.stage(each.id) in {Stage.TAINTED, Stage.REVOKED})


@given(STEPS, st.integers(0, 5))
def test_a_tainted_signing_authority_never_signs_again(steps, index):
    trust = FIRST
    own = signer(trust.roots[0])
    (change,) = tainted(trust, own.id, NOW, [own])
    trust = Trust(trust.roots, {**trust.stages, own.id: change})
    for step, number in steps:
        trust = taken(trust, step, number)[0] or trust
        assert not trust.may_sign(own)
        assert trust.is_withdrawn(own)
    assert len([each for each in trust.roots if trust.stage(each.id) is Stage.ACTIVE]) == 1


@given(STEPS)
def test_a_root_without_a_stage_is_not_trusted_unless_it_is_the_only_root(steps):
    trust = FIRST
    for step, number in steps:
        trust = taken(trust, step, number)[0] or trust
    stages = list(trust.stages.values())
    alone = trust.roots if len(trust.roots) == 1 else ()
    for missing in stages:
        found = Trust.of(trust.roots, [each for each in stages if each is not missing])
        assert (missing.id in {each.id for each in found.trusted}) == bool(alone)
    assert Trust.of(trust.roots, []).trusted == alone
    assert Trust.of(trust.roots, []).active == (alone[0] if alone else None)


EXTERNAL = tuple(replace(root(number), origin=Origin.PLUG_IN) for number in range(1, 5))
GIVEN = st.tuples(st.integers(0, 3), st.sets(st.integers(0, 3)), st.booleans())
GIVEN_STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["adopt", "follow"]), GIVEN),
        st.tuples(st.sampled_from([*ALLOWED]), st.integers(0, 3)),
    ),
    max_size=30,
)


@given(GIVEN_STEPS, st.booleans())
def test_the_laws_hold_whatever_roots_an_operator_gives_beside(steps, own):
    """Roots from outside are known from the start, and have no stage before they are given."""
    trust = Trust((*FIRST.roots, *EXTERNAL[1:]), FIRST.stages) if own else Trust(EXTERNAL, {})
    withdrawn = {Stage.TAINTED, Stage.REVOKED}
    gone = set()
    for step, what in steps:
        if step == "follow":
            present = {trust.roots[place].id for place in what[1]}
            changes = followed(trust, Origin.PLUG_IN, present, NOW)
            assert not any(each.id == (trust.active and trust.active.id) for each in changes)
            assert not any(each.id in present and each.stage is not Stage.VERIFY_ONLY for each in changes)
            trust = Trust(trust.roots, {**trust.stages, **{each.id: each for each in changes}})
        elif step != "adopt":
            trust = taken(trust, step, what)[0] or trust
        else:
            place, beside, changed = what
            anchor, others = trust.roots[place], [trust.roots[each].id for each in beside if each != place]
            before = dict(trust.stages)
            try:
                changes = adopted(trust, anchor.id, others, NOW, changed=changed)
            except PreconditionError:
                waiting = trust.prepared
                assert trust.stage(anchor.id) in withdrawn or (waiting is not None and waiting.origin is None)
                continue
            trust = Trust(trust.roots, {**trust.stages, **{each.id: each for each in changes}})
            assert trust.stage(anchor.id) in {Stage.ACTIVE, Stage.ACTIVATING, Stage.OLD, Stage.PREPARED}
            if trust.stage(anchor.id) in {Stage.OLD, Stage.PREPARED}:
                assert not changed
                assert trust.stage(anchor.id) is before[anchor.id].stage
            assert all(trust.stage(each) is not None for each in others)
            assert len({each.id for each in changes}) == len(changes)
        at = {stage: {each.id for each in trust.roots if trust.stage(each.id) is stage} for stage in Stage}
        assert len(at[Stage.ACTIVE]) <= 1
        assert len(at[Stage.PREPARED] | at[Stage.ACTIVATING]) <= 1
        assert gone <= at[Stage.REVOKED]
        gone = at[Stage.REVOKED]
