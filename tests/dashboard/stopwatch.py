"""A stopwatch inside the page: when what it shows changed, as a person would see it, and for how long its thread was blocked.

Owns the script that runs in the page, and reading what it noted. Leaves opening the page to ``browser`` and judging to the tests.
Invariants: a moment is noted after the frame that draws the change; moments of the page and of the cluster are of one clock, this machine's
wall clock in milliseconds, and only their differences count.
Failure behaviour: as ``Page.ask``.
"""

from __future__ import annotations

from typing import Any

from tests.dashboard.browser import Page

LOOK_EVERY_MS = 50
_BEGIN = """(() => {
  const seen = window.stopwatch = {since: Date.now(), events: [], texts: [], blocks: [], settled: 0};
  const drawn = (note) => requestAnimationFrame(() => setTimeout(() => note(Date.now())));
  const text = (id) => document.getElementById(id).textContent;
  new MutationObserver((changes) => {
    const added = changes.flatMap((change) => [...change.addedNodes]).filter((node) => node.isConnected);
    const told = added.map((node) => ({kind: node.querySelector('b').textContent, at: Date.parse(node.querySelector('time').title)}));
    drawn((shown) => told.forEach((one) => one.at >= seen.since && seen.events.push({...one, shown})));
  }).observe(document.getElementById('events'), {childList: true});
  const last = {};
  for (const id of ['health-text', 'map-note']) {
    new MutationObserver(() => {
      if (last[id] === text(id)) return;
      const now = last[id] = text(id);
      drawn((shown) => seen.texts.push({id, text: now, shown}));
    }).observe(document.getElementById(id), {childList: true, characterData: true, subtree: true});
  }
  new PerformanceObserver((list) => list.getEntries().forEach((one) => seen.blocks.push(
    {at: performance.timeOrigin + one.startTime, ms: one.duration}))).observe({type: 'longtask', buffered: true});
})()"""


class Stopwatch:
    """What one page showed, and when; made by ``begin``."""

    def __init__(self, page: Page) -> None:
        self._page = page

    @classmethod
    async def begin(cls, page: Page) -> Stopwatch:
        """Note everything from now on, and how long the page's thread was blocked before."""
        await page.ask(_BEGIN)
        return cls(page)

    async def watch_for(self, condition: str) -> None:
        """Look every 50 ms in the page whether ``condition`` holds, and note since when it does."""
        await self._page.ask(
            "void setInterval(() => { const seen = window.stopwatch; "
            f"seen.settled = ({condition}) ? seen.settled || Date.now() : 0; }}, {LOOK_EVERY_MS})"
        )

    async def settled(self) -> float:
        """Return since when the condition of ``watch_for`` holds, in seconds since the epoch; 0 if it does not."""
        return float(await self._page.ask("window.stopwatch.settled")) / 1e3

    async def events(self, kind: str = "") -> list[tuple[float, float]]:
        """Return when each event of ``kind`` (default: of any) happened and when its line was seen, in seconds."""
        told: list[dict[str, Any]] = await self._page.ask("window.stopwatch.events")
        return [(one["at"] / 1e3, one["shown"] / 1e3) for one in told if kind in {"", one["kind"]}]

    async def texts(self, place: str) -> list[tuple[float, str]]:
        """Return when the element ``place`` changed to which text, in seconds."""
        told: list[dict[str, Any]] = await self._page.ask("window.stopwatch.texts")
        return [(one["shown"] / 1e3, one["text"]) for one in told if one["id"] == place]

    async def blocked_s(self, since: float = 0.0, until: float = float("inf")) -> float:
        """Return the longest time that the page's thread was blocked, 0 if never for 50 ms, between two moments."""
        told: list[dict[str, Any]] = await self._page.ask("window.stopwatch.blocks")
        return max((one["ms"] / 1e3 for one in told if since <= one["at"] / 1e3 <= until), default=0.0)
