"""A time limit for silence, on a loop whose clock only goes as far as its timers."""

from __future__ import annotations

import asyncio
import selectors

import pytest

from engine.cluster.silence import Silence


class Selector(selectors.SelectSelector):
    """Nothing ever comes: time is what is waited for."""

    waited = 0.0

    def select(self, timeout=None):
        self.waited += timeout or 0.0
        return []


def run(main):
    """Run it; returns the seconds that it took on that clock."""
    selector = Selector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.waited
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    return selector.waited


def silent(main):
    """As `run`, of what ends with `TimeoutError`."""

    async def ends():
        with pytest.raises(TimeoutError):
            await main()

    return run(ends)


def test_there_is_no_limit_before_the_first_word():
    async def main():
        async with Silence(5.0):
            await asyncio.sleep(100.0)

    assert run(main) == pytest.approx(100.0)


def test_so_many_seconds_of_silence_end_the_block():
    async def main():
        async with Silence(5.0) as silence:
            silence.heard()
            await asyncio.sleep(100.0)

    assert silent(main) == pytest.approx(5.0)


def test_every_word_starts_them_anew():
    async def main():
        async with Silence(5.0) as silence:
            for _ in range(4):
                silence.heard()
                await asyncio.sleep(3.0)
            await asyncio.sleep(100.0)

    assert silent(main) == pytest.approx(9.0 + 5.0)


def test_suspended_it_waits_for_a_word():
    async def main():
        async with Silence(5.0) as silence:
            silence.heard()
            silence.suspend()
            await asyncio.sleep(100.0)
            silence.heard()
            await asyncio.sleep(100.0)

    assert silent(main) == pytest.approx(105.0)


def test_a_block_that_has_ended_is_not_ended_again():
    async def main():
        async with Silence(5.0) as silence:
            silence.heard()
        await asyncio.sleep(100.0)

    assert run(main) == pytest.approx(100.0)


def test_who_cancels_it_is_not_told_of_silence():
    async def wait():
        async with Silence(5.0) as silence:
            silence.heard()
            await asyncio.sleep(100.0)

    async def main():
        task = asyncio.ensure_future(wait())
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert run(main) == pytest.approx(1.0)
