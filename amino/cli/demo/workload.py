"""The load: clients that use MinnieTwitter in the published mix of Retwis, choosing users by Zipf's law.

Owns what the clients do. Leaves counting to ``meter`` and ``ledger``.
The mix (add user 5 %, follow 15 %, post 30 %, read the timeline 50 %; Zipf 0.75) is that of the Retwis workload as
published with TAPIR (Zhang et al., SOSP 2015).
Invariant: what a client was told is in the ledger before its next call.
Failure behaviour: a call that fails is counted, and the client goes on after a short wait; any other error ends the client
and is kept.
"""

from __future__ import annotations

import random
import threading
import time
from bisect import bisect_right
from itertools import accumulate
from typing import Any

from amino.cli.demo.ledger import Ledger
from amino.cli.demo.meter import Meter
from amino.errors import AminoError

MIX = {"add user": 5, "follow": 15, "post": 30, "timeline": 50}
ZIPF = 0.75
TAGS = ("amino", "python", "etcd", "objects", "leases", "epochs", "slots", "refs")
_TAGGED_SHARE = 0.25
_PAUSE_AFTER_FAILURE_S = 0.1


class People:
    """The users known to the clients; the first are the most popular. Safe from several threads."""

    def __init__(self, exponent: float = ZIPF) -> None:
        self._exponent = exponent
        self._lock = threading.Lock()
        self._profiles: list[Any] = []
        self._weights: list[float] = []

    def __len__(self) -> int:
        return len(self._profiles)

    def add(self, profile: Any) -> None:
        """Add a user, the least popular so far."""
        with self._lock:
            self._profiles.append(profile)
            weight = len(self._profiles) ** -self._exponent
            self._weights.append(weight + (self._weights[-1] if self._weights else 0.0))

    def choose(self, rng: random.Random) -> Any:
        """Return a user, a popular one more often."""
        with self._lock:
            place = bisect_right(self._weights, rng.random() * self._weights[-1])
            return self._profiles[min(place, len(self._profiles) - 1)]

    def all(self) -> list[Any]:
        """Return all users, the most popular first."""
        with self._lock:
            return list(self._profiles)


class Load:
    """Client threads that call until they are stopped.

    Args:
        twitter: stub of the entry.
        seed: of all random choices; each client's derives from it.
    """

    def __init__(self, twitter: Any, people: People, meter: Meter, ledger: Ledger, *, clients: int, seed: int) -> None:
        self.twitter = twitter
        self.people = people
        self.meter = meter
        self.ledger = ledger
        self.broken: list[BaseException] = []
        self._stopping = threading.Event()
        self._clients = [_Client(self, number, random.Random(f"{seed}/{number}")) for number in range(1, clients + 1)]
        self._threads = [threading.Thread(target=each.run, name=f"client {each.number}") for each in self._clients]

    def start(self) -> None:
        """Start all clients."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let all clients finish their call, and wait until they have. Idempotent."""
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    @property
    def stopping(self) -> threading.Event:
        """Set when the clients shall end."""
        return self._stopping


class _Client:
    def __init__(self, load: Load, number: int, rng: random.Random) -> None:
        self.number = number
        self._load = load
        self._rng = rng
        self._calls = 0
        self._kinds = list(MIX)
        self._shares = list(accumulate(MIX.values()))
        self._actions = {"add user": self._add_user, "follow": self._follow, "post": self._post, "timeline": self._read}

    def run(self) -> None:
        load = self._load
        try:
            while not load.stopping.is_set():
                [kind] = self._rng.choices(self._kinds, cum_weights=self._shares)
                self._calls += 1
                try:
                    self._actions[kind](kind)
                except AminoError as error:
                    load.meter.failure(kind, error)
                    load.stopping.wait(_PAUSE_AFTER_FAILURE_S)
        except Exception as error:  # noqa: BLE001 - whatever ends a client is told by the demo, which then is not ok
            load.broken.append(error)

    def _call(self, kind: str, method: Any, *args: Any) -> Any:
        began = time.monotonic()
        result = method(*args)
        self._load.meter.answered(kind, began, time.monotonic())
        return result

    def _add_user(self, kind: str) -> None:
        profile = self._call(kind, self._load.twitter.sign_up, f"c{self.number}n{self._calls}")
        self._load.ledger.signed_up(profile.name)
        self._load.people.add(profile)

    def _follow(self, kind: str) -> None:
        one, other = self._load.people.choose(self._rng), self._load.people.choose(self._rng)
        while other.name == one.name:
            other = self._load.people.choose(self._rng)
        new = self._call(kind, one.user.follow, other)
        self._load.ledger.followed(one.name, other.name, new=new)

    def _post(self, kind: str) -> None:
        text = f"{self._calls}th thought of client {self.number}"
        if self._rng.random() < _TAGGED_SHARE:
            text += f" #{self._rng.choice(TAGS)}"
        author = self._load.people.choose(self._rng)
        self._load.ledger.posted(self._call(kind, author.user.post, text))

    def _read(self, kind: str) -> None:
        self._call(kind, self._load.people.choose(self._rng).user.home)
