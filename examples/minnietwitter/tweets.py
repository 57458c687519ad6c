"""What people write, and where it is kept."""

import re
import time
from dataclasses import dataclass

import amino


@dataclass(frozen=True)
class Tweet:
    """A value: it is copied wherever it goes."""

    author: str
    number: int
    text: str
    at: float

    @property
    def tags(self) -> list[str]:
        return sorted(set(re.findall(r"#(\w+)", self.text)))


class Timeline:
    """All tweets of one author."""

    def __init__(self, author: str) -> None:
        self.author = author
        self.tweets: list[Tweet] = []

    def append(self, text: str) -> Tweet:
        tweet = Tweet(self.author, len(self.tweets) + 1, text, time.time())
        self.tweets.append(tweet)
        return tweet

    @amino.readonly
    def newest(self, count: int = 10) -> list[Tweet]:
        return self.tweets[-count:][::-1]

    @amino.readonly
    def all(self) -> list[Tweet]:
        return list(self.tweets)


class Tag:
    """All tweets that carry one tag."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tweets: list[Tweet] = []

    def add(self, tweet: Tweet) -> None:
        self.tweets.append(tweet)

    @amino.readonly
    def newest(self, count: int = 10) -> list[Tweet]:
        return self.tweets[-count:][::-1]

    @amino.readonly
    def all(self) -> list[Tweet]:
        return list(self.tweets)
