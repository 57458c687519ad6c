"""What was acknowledged, and whether the cluster still has it, once.

Owns the clients' notes and the comparison with what is read back. Leaves reading to ``scenario``.
Invariants: every attempt has a text of its own, so two of the same are one that ran twice; a call whose outcome is unknown
may be found once or not at all.
Failure behaviour: each difference is told in words, the first few of them.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_TOLD_MAX = 20


@dataclass(frozen=True, slots=True)
class Found:
    """What the cluster has at the end.

    Args:
        timelines: all tweets by author, in order. tags: all tweets by tag. followers: by user, in order.
        following: whom each user follows. Who is missing in ``timelines`` does not exist.
    """

    timelines: Mapping[str, Sequence[Any]]
    tags: Mapping[str, Sequence[Any]]
    followers: Mapping[str, Sequence[str]]
    following: Mapping[str, Sequence[str]]


@dataclass(slots=True)
class Verdict:
    """The result: how much was acknowledged and read back, and what is wrong."""

    acknowledged: int = 0
    lost: int = 0
    duplicated: int = 0
    told: list[str] = field(default_factory=list)

    def note_lost(self, text: str) -> None:
        """Count something acknowledged that is not there."""
        self.lost += 1
        self._tell(f"lost: {text}")

    def note_duplicated(self, text: str, times: int = 1) -> None:
        """Count something that happened ``times`` times too often."""
        self.duplicated += times
        self._tell(f"duplicated: {text}")

    def _tell(self, text: str) -> None:
        if len(self.told) < _TOLD_MAX:
            self.told.append(text)


class Ledger:
    """Notes of all clients. Safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tweets: list[Any] = []
        self._follows: list[tuple[str, str, bool]] = []
        self._users: list[str] = []

    def __repr__(self) -> str:
        return f"Ledger({self.acknowledged} acknowledged)"

    @property
    def acknowledged(self) -> int:
        """How many changes were acknowledged."""
        return len(self._tweets) + len(self._follows) + len(self._users)

    def signed_up(self, name: str) -> None:
        """Note that user ``name`` was created."""
        with self._lock:
            self._users.append(name)

    def followed(self, follower: str, followed: str, *, new: bool) -> None:
        """Note that ``follower`` follows; ``new``: it was told that it had not before."""
        with self._lock:
            self._follows.append((follower, followed, new))

    def posted(self, tweet: Any) -> None:
        """Note a tweet, as it was returned."""
        with self._lock:
            self._tweets.append(tweet)

    def judge(self, found: Found) -> Verdict:
        """Compare with what the cluster has; no client may be at work any more."""
        verdict = Verdict(self.acknowledged)
        self._judge_users(found, verdict)
        self._judge_tweets(found, verdict)
        self._judge_follows(found, verdict)
        return verdict

    def _judge_users(self, found: Found, verdict: Verdict) -> None:
        for name in self._users:
            if name not in found.timelines:
                verdict.note_lost(f"user {name}")
        for name, times in Counter(self._users).items():
            if times > 1:
                verdict.note_duplicated(f"user {name} was created {times} times", times - 1)

    def _judge_tweets(self, found: Found, verdict: Verdict) -> None:
        for place, lists in (("timeline of", found.timelines), ("tag", found.tags)):
            for owner, tweets in lists.items():
                for text, times in Counter(tweet.text for tweet in tweets).items():
                    if times > 1:
                        verdict.note_duplicated(f"{text!r} is {times} times in {place} {owner}", times - 1)
        for author, tweets in found.timelines.items():
            numbers = [tweet.number for tweet in tweets]
            if numbers != list(range(1, len(numbers) + 1)):
                verdict.note_duplicated(f"numbers in the timeline of {author}: {numbers}")
        kept = {owner: set(tweets) for owner, tweets in found.timelines.items()}
        tagged = {owner: set(tweets) for owner, tweets in found.tags.items()}
        for tweet in self._tweets:
            if tweet not in kept.get(tweet.author, ()):
                verdict.note_lost(f"{tweet.text!r} of {tweet.author}, number {tweet.number}")
            for tag in tweet.tags:
                if tweet not in tagged.get(tag, ()):
                    verdict.note_lost(f"{tweet.text!r} in tag {tag}")

    def _judge_follows(self, found: Found, verdict: Verdict) -> None:
        for name, followers in found.followers.items():
            for follower, times in Counter(followers).items():
                if times > 1:
                    verdict.note_duplicated(f"{follower} follows {name} {times} times", times - 1)
        for follower, followed in {(one, other) for one, other, _ in self._follows}:
            if follower not in found.followers.get(followed, ()):
                verdict.note_lost(f"{follower} follows {followed}, in the followers of {followed}")
            if followed not in found.following.get(follower, ()):
                verdict.note_lost(f"{follower} follows {followed}, in what {follower} reads")
        for (follower, followed), times in Counter((a, b) for a, b, new in self._follows if new).items():
            if times > 1:
                verdict.note_duplicated(f"{follower} was new to {followed} {times} times", times - 1)
