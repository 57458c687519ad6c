"""Classes that the simulated servers of these tests run."""

import amino


class Counter:
    def __init__(self, start=0):
        self.value = start

    def add(self, n=1):
        self.value += n
        return self.value

    @amino.readonly
    def get(self):
        return self.value
