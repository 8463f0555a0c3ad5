"""With and without flash attention: prompt tokens a second, and the time of a decode of answers.

What `flash_attn=auto`, `engine.llama.context.CHUNK` and `Model.attention_costs` are chosen by.

    python -m benchmarks.attention [MODEL.gguf]

In this process, without the bridge; weight repacking is off, as it is on CPUs with AMX. Medians
of several rounds, in which the ways take turns.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

from ctl.catalog import default_model
from engine import LoadOptions
from engine.llama import Context, Model
from engine.plan import Plan, Shape, Trim

WAYS = ("on", "off")
"""Flash attention."""
SIZES = (16, 32, 63, 64, 128, 255)
"""Tokens of a prompt in one decode."""
PROMPTS_BEHIND = (0, 1000, 4000)
"""Tokens before them."""
ANSWERS = (1, 4, 10)
ANSWERS_BEHIND = (60, 250, 500, 1000, 2000)
ROUNDS = 5


class Way:
    """A context of so many streams, each with the same number of tokens in it."""

    def __init__(self, model: Model, flash: str, n_streams: int, longest: int) -> None:
        n_cells = -(-(longest + max(SIZES)) // 256) * 256 * n_streams
        options = LoadOptions(n_cells=n_cells, n_ctx=n_cells, flash_attn=flash, n_seq=n_streams)
        self._context = Context(model, options)
        self._context.warm_up()
        self._context.forget(Shape(n_streams, n_cells, unified=False))
        self._streams = range(n_streams)
        self._filled = 0

    def fill(self, n_tokens: int) -> None:
        """Compute tokens until there are so many in every stream."""
        for start in range(self._filled, n_tokens, 250):
            for stream in self._streams:
                self._decode({stream: min(250, n_tokens - start)}, start)
        self._filled = n_tokens

    def decode(self, rows: dict[int, int]) -> float:
        """Seconds that so many more tokens take, by their streams; they are forgotten again."""
        return self._decode(rows, self._filled)

    def _decode(self, rows: dict[int, int], at: int) -> float:
        plan = Plan(operations=[Trim(stream, at) for stream in rows])
        for stream, count in rows.items():
            plan.add(stream, [1000 + stream] * count, at)
            plan.outputs[len(plan.tokens) - 1] = stream
        start = time.perf_counter()
        self._context.carry_out(plan)
        return time.perf_counter() - start


def compare(
    ways: dict[str, Way], measure: Callable[[Way, int], float], sizes: tuple[int, ...], behind: int
) -> None:
    """Rows of a table: one for each size, a column for each way."""
    found: dict[tuple[int, str], list[float]] = {}
    for way in ways.values():
        way.fill(behind)
    for _ in range(ROUNDS):
        for size in sizes:
            for name, way in ways.items():
                found.setdefault((size, name), []).append(measure(way, size))
    for size in sizes:
        cells = (found[size, name] for name in ways)
        texts = (f"{median(each):.4g} [{min(each):.4g}–{max(each):.4g}]" for each in cells)
        print(f"| {behind:,} | {size} | {' | '.join(texts)} |", flush=True)


def main() -> None:
    """Measure and print two tables."""
    path = sys.argv[1] if len(sys.argv) > 1 else str(default_model())
    model = Model(path, LoadOptions(), False, lambda fraction: None)
    header = "| flash attention on | off |\n| --- | --- | --- | --- |"
    print(f"prompt tokens a second\n\n| tokens before | tokens at once {header}")
    ways = {flash: Way(model, flash, 1, max(PROMPTS_BEHIND)) for flash in WAYS}
    for behind in PROMPTS_BEHIND:
        compare(ways, lambda way, size: size / way.decode({0: size}), SIZES, behind)
    print(f"\nmilliseconds of a decode\n\n| tokens before | answers {header}")
    ways = {flash: Way(model, flash, max(ANSWERS), max(ANSWERS_BEHIND)) for flash in WAYS}
    for behind in ANSWERS_BEHIND:
        compare(ways, lambda way, n: 1000 * way.decode(dict.fromkeys(range(n), 1)), ANSWERS, behind)


if __name__ == "__main__":
    main()
