"""Classes that the simulated servers of these tests run."""

import asyncio

import amino


class Counter:
    def __init__(self, start=0):
        self.value = start

    def add(self, n=1):
        self.value += n
        return self.value

    async def add_slowly(self, seconds):
        await asyncio.sleep(seconds)
        return self.add()

    @amino.readonly
    def get(self):
        return self.value


class Visits:
    def __init__(self):
        self.pages = {}

    @amino.key
    def count(self, page):
        self.pages[page] = self.pages.get(page, 0) + 1
        return self.pages[page]

    @amino.broadcast
    @amino.readonly
    def known(self):
        return len(self.pages)
