"""People: whom they follow, who follows them, what they write and read."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import nlargest
from typing import TYPE_CHECKING

import amino

if TYPE_CHECKING:
    from minnietwitter.tweets import Timeline, Tweet
    from minnietwitter.twitter import Tags

READ_AT_ONCE = 10


class Followers:
    """Who follows one user, in the order in which they came."""

    def __init__(self) -> None:
        self.followers: list[str] = []

    def add(self, name: str) -> bool:
        """Return whether ``name`` is new here."""
        if name in self.followers:
            return False
        self.followers.append(name)
        return True

    @amino.readonly
    def all(self) -> list[str]:
        return list(self.followers)


@dataclass(frozen=True)
class Profile:
    """A user's name and the refs to what is theirs: passed around, and kept by the directory."""

    name: str
    user: User
    timeline: Timeline
    followers: Followers


class User:
    """One person.

    Calls of one user may overlap. That is safe: the one thing that changes here is ``following``, in one step. What
    counts or numbers things (timelines, followers, tags) runs its calls one at a time.
    """

    def __init__(self, name: str, timeline: Timeline, followers: Followers, tags: Tags) -> None:
        self.name = name
        self.timeline = timeline  # refs, kept as part of the state
        self.followers = followers
        self.tags = tags
        self.following: dict[str, Timeline] = {}

    def post(self, text: str) -> Tweet:
        tweet = self.timeline.append(text)
        for name in tweet.tags:
            self.tags.tag(name).add(tweet)
        return tweet

    def follow(self, other: Profile) -> bool:
        """Return whether that is new."""
        added = other.followers.add(self.name)
        self.following[other.name] = other.timeline
        return added

    @amino.readonly
    def home(self, count: int = 10) -> list[Tweet]:
        """The newest tweets of those followed last, and of the user."""
        timelines = [self.timeline, *list(self.following.values())[-READ_AT_ONCE:]]
        tweets = [tweet for timeline in timelines for tweet in timeline.newest(count)]
        return nlargest(count, tweets, key=lambda tweet: tweet.at)

    @amino.readonly
    def follows(self) -> list[str]:
        return list(self.following)
