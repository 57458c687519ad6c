"""Classes for tests of servers."""

import amino


class Counter:
    def __init__(self, value=0):
        self.value = value

    def add(self, n=1):
        self.value += n
        return self.value


class Tally:
    """Counts for each key."""

    def __init__(self):
        self.counts = {}

    @amino.key
    def add(self, key):
        self.counts[key] = self.counts.get(key, 0) + 1
        return self.counts[key]


class Holder:
    """Has a reference to another microservice in its state."""

    def __init__(self):
        self.held = None

    def hold(self, stub):
        self.held = stub

    def add_there(self):
        return self.held.add()
