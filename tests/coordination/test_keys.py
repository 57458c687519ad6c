"""Keys: every one has its place, and can be read back."""

from __future__ import annotations

import pytest

from amino.coordination.keys import Keys, OwnedKey, TombstoneKey
from amino.errors import Invalid

KEYS = Keys("prod")


def test_the_layout():
    """The keys are those of the design, literally: other releases and operators rely on them."""
    assert [
        KEYS.server("s1"),
        KEYS.tombstone("s1", 42),
        KEYS.slot(7),
        KEYS.microservice(7, "ab12"),
        KEYS.name("hits"),
        KEYS.group(7, "ab12", "/"),
        KEYS.group(7, "ab12", "/0/2"),
        KEYS.manifest("ab12", "/"),
        KEYS.decision("t1"),
        KEYS.code("ff00"),
        KEYS.event(3),
        KEYS.lock("l"),
        KEYS.cluster,
    ] == [
        "/amino/prod/servers/s1",
        "/amino/prod/tombstones/s1/42",
        "/amino/prod/slots/7",
        "/amino/prod/microservices/7/ab12",
        "/amino/prod/names/hits",
        "/amino/prod/groups/7/ab12/",
        "/amino/prod/groups/7/ab12/0/2",
        "/amino/prod/checkpoints/ab12/",
        "/amino/prod/decisions/t1",
        "/amino/prod/code/ff00",
        "/amino/prod/events/00000000000000000003",
        "/amino/prod/locks/l",
        "/amino/prod/cluster",
    ]


def test_there_and_back():
    """Parsing gives back what the key was made of."""
    assert KEYS.parse_server(KEYS.server("s1")) == "s1"
    assert KEYS.parse_tombstone(KEYS.tombstone("s1", 42)) == TombstoneKey("s1", 42)
    assert KEYS.parse_slot(KEYS.slot(63)) == 63
    assert KEYS.parse_microservice(KEYS.microservice(1, "a")) == OwnedKey(1, "a")
    assert KEYS.parse_name(KEYS.name("hits")) == "hits"
    for path in ("/", "/0", "/0/2", "/shard-1/a.b"):
        assert KEYS.parse_group(KEYS.group(1, "a", path)) == OwnedKey(1, "a", path)
        assert KEYS.parse_manifest(KEYS.manifest("a", path)) == ("a", path)
    assert KEYS.parse_event(KEYS.event(12)) == 12
    assert KEYS.parse_code(KEYS.code("ff")) == "ff"


def test_prefixes_do_not_mix():
    """A prefix lists its own keys only: slot 1 is not slot 10, microservice ``a`` is not ``ab``."""
    assert not KEYS.microservice(10, "a").startswith(KEYS.microservices_of(1))
    assert not KEYS.group(10, "a", "/").startswith(KEYS.groups_of_slot(1))
    assert not KEYS.group(1, "ab", "/").startswith(KEYS.groups_of(1, "a"))
    assert KEYS.group(1, "a", "/").startswith(KEYS.groups_of(1, "a"))
    assert KEYS.manifest("a", "/0").startswith(KEYS.manifests_of("a"))
    assert not Keys("prod2").server("x").startswith(KEYS.root)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Keys("a/b"),
        lambda: Keys(""),
        lambda: KEYS.server("../x"),
        lambda: KEYS.server("a/b"),
        lambda: KEYS.slot(64),
        lambda: KEYS.slot(-1),
        lambda: KEYS.group(1, "a", ""),
        lambda: KEYS.group(1, "a", "0"),
        lambda: KEYS.group(1, "a", "//"),
        lambda: KEYS.group(1, "a", "/0/"),
        lambda: KEYS.event(-1),
        lambda: KEYS.parse_slot(KEYS.server("s")),
        lambda: KEYS.parse_slot(KEYS.slots_prefix),
        lambda: KEYS.parse_slot(KEYS.slots_prefix + "x"),
        lambda: KEYS.parse_tombstone(KEYS.tombstones_prefix + "s/x"),
    ],
)
def test_what_does_not_fit_is_refused(make):
    """A part that would leave its place, or a key of another kind, is Invalid."""
    with pytest.raises(Invalid):
        make()
