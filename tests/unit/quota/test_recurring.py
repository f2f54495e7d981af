"""What is remembered of bytes: those that come again, within a bound."""

from app.quota.rpc.recurring import Recurring


def test_what_comes_once_is_not_kept_and_what_comes_twice_is():
    known = Recurring(8)
    known.offer(b"a", 1)
    assert known.get(b"a") is None
    known.offer(b"a", 2)
    assert known.get(b"a") == 2


def test_nothing_is_kept_beyond_the_bound():
    known = Recurring(8)
    kept = 0
    for number in range(1000):
        key = b"%d" % number
        known.offer(key, number)
        known.offer(key, number)
        kept += known.get(key) == number
        assert sum(known.get(b"%d" % each) is not None for each in range(number + 1)) <= 8
    assert kept == 1000


def test_what_is_cleared_is_forgotten_and_kept_again():
    known = Recurring(8)
    for value in (1, 2):
        known.offer(b"a", value)
        known.offer(b"a", value)
        assert known.get(b"a") == value
        known.clear()
        assert known.get(b"a") is None
