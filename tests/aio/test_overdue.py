"""What takes too long says so while it does, and nothing else says anything."""

from __future__ import annotations

import asyncio
import logging

from amino.aio.overdue import told_if_overdue
from tests.coordination.virtual import run_virtual

_log = logging.getLogger("amino.tests")


def test_work_in_time_is_silent(caplog):
    """No line, and no timer left, however it ends."""

    async def main(clock):
        with told_if_overdue(_log, lambda: "a step", 1.0):
            await asyncio.sleep(0.9)
        await asyncio.sleep(5)

    run_virtual(main)
    assert not caplog.records


def test_a_hang_is_told_while_it_lasts_with_its_stage(caplog):
    """Whoever reads the log of a server that hangs finds what it is at."""
    stage = "begun"

    async def main(clock):
        nonlocal stage
        with told_if_overdue(_log, lambda: f"a step: {stage}", 1.0):
            stage = "waiting for the disk"
            await asyncio.sleep(1.5)
            assert [one.getMessage() for one in caplog.records] == [
                "a step: waiting for the disk takes longer than 1 s and goes on"
            ]
            stage = "waiting for etcd"
            await asyncio.sleep(1.5)

    run_virtual(main)
    assert [one.getMessage() for one in caplog.records][1:] == ["a step: waiting for etcd ended after 3.0 s"]
