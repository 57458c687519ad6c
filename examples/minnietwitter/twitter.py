"""The application: its entry, which creates everything else, and the list of tags."""

from __future__ import annotations

import amino
from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint, SerializableRPC
from minnietwitter.tweets import Tag, Timeline
from minnietwitter.users import Followers, Profile, User

# An acknowledged call survives any crash, and a repeated one runs once. The second chain also runs calls one at a time:
# for classes that read and then write, which could lose an update as they would with threads.
KEPT = [AtLeastOnceRPC(), PeriodicCheckpoint(every=1)]
KEPT_IN_ORDER = [*KEPT, SerializableRPC()]


class NameTaken(Exception):
    """Somebody has that name."""


class Tags:
    """Finds the microservice of a tag, and creates it when it is first used."""

    def __init__(self) -> None:
        self.tags: dict[str, Tag] = {}

    def tag(self, name: str) -> Tag:
        if name not in self.tags:
            spec = amino.spec(Tag, name=f"tag.{name}", dms=KEPT_IN_ORDER)
            self.tags[name] = amino.current().cluster.get_or_create(spec, name)
        return self.tags[name]

    @amino.readonly
    def names(self) -> list[str]:
        return sorted(self.tags)


class Twitter:
    """The entry: signs people up and knows them by name."""

    def __init__(self) -> None:
        self.profiles: dict[str, Profile] = {}
        spec = amino.spec(Tags, name="tags", dms=KEPT_IN_ORDER)
        self.tags: Tags = amino.current().cluster.get_or_create(spec)

    def sign_up(self, name: str) -> Profile:
        """Create the user ``name``. A name that is taken raises ``NameTaken``, here and at the caller."""
        if name in self.profiles:
            raise NameTaken(name)
        new = amino.current().cluster.get_or_create
        timeline = new(amino.spec(Timeline, name=f"timeline.{name}", dms=KEPT_IN_ORDER), name)
        followers = new(amino.spec(Followers, name=f"followers.{name}", dms=KEPT_IN_ORDER))
        user = new(amino.spec(User, name=f"user.{name}", dms=KEPT), name, timeline, followers, self.tags)
        self.profiles[name] = Profile(name, user, timeline, followers)
        return self.profiles[name]

    @amino.readonly
    def profile(self, name: str) -> Profile:
        return self.profiles[name]

    @amino.readonly
    def names(self) -> list[str]:
        return sorted(self.profiles)

    @amino.readonly
    def all_tags(self) -> Tags:
        return self.tags


def entry() -> amino.Spec[Twitter]:
    """How the entry runs; give it to ``cluster.define_app``."""
    return amino.spec(Twitter, dms=KEPT_IN_ORDER)
