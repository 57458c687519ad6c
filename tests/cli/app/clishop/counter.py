"""Classes that tests of the command line deploy."""

import amino


class Counter:
    def __init__(self, start=0, *, step=1):
        self.value = start
        self.step = step

    def add(self, n=1):
        self.value += n * self.step
        return self.value

    async def later(self):
        return {"value": self.value, "tags": ["a", "b"]}

    @amino.readonly
    def get(self):
        return self.value

    def fail(self, why):
        raise ValueError(why)
