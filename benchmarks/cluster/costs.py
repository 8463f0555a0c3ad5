"""What the simulation takes from measurements."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class Costs:
    """One replica: SmolLM2-135M on 2 cores of an x86-64 machine.

    steps: milliseconds in which each of so many answers gets a token. From tokens a second in all
    of 1, 4, 10 and 32 sessions: 101, 164, 189, 218 (`make bench-peer`, docs/performance.md).
    prompt_token: milliseconds to compute one, of a prompt alone: 300 a second
    (`python -m benchmarks.attention`). found_token: to take one from the cache: 6 µs
    (docs/design.md, "Prefixes"). chunk, calm_chunk: tokens of prompts between two steps of answers,
    and while nothing answers (`engine.llama.context`). n_seq: answers at once (`LoadOptions`).
    cache_tokens: n_cells, and what 512 MiB of cache_ram hold at 22.5 KiB a token (360 MiB for
    16,384 cells: `engine.api.cache_size`).

    first_item, item: milliseconds that Ray adds to the first item of an answer, and of CPU that a
    bridge takes for each: 4 to 7, and 0.4 to 0.9 (FACTS, "Ray 2.60"; single runs, ±30 %).
    item_tokens: in one item, after the first. start: seconds until a new replica answers: 1.2 from
    none to one (same place), 2 for the model's load (`python -m benchmarks.start`), and 0.3 for its
    100 MB file at 300 MB a second.
    """

    steps: tuple[tuple[int, float], ...] = ((1, 9.9), (4, 24.4), (10, 52.9), (32, 146.8))
    prompt_token: float = 3.33
    found_token: float = 0.006
    chunk: int = 64
    calm_chunk: int = 128
    n_seq: int = 32
    cache_tokens: int = 16_384 + 23_300
    first_item: float = 5.5
    item: float = 0.4
    item_tokens: int = 4
    start: float = 3.5

    def step(self, answers: int) -> float:
        """Seconds of a decode with the next token of so many answers: between the measured ones on
        a straight line, and beyond them along the last one."""
        if answers <= self.steps[0][0] or len(self.steps) == 1:
            return self.steps[0][1] * answers / self.steps[0][0] / 1000
        at = min(bisect_left(self.steps, (answers, 0.0)), len(self.steps) - 1)
        (few, quick), (many, slow) = self.steps[at - 1 : at + 1]
        return (quick + (slow - quick) * (answers - few) / (many - few)) / 1000

    def work(self, prompt: int, answer: int) -> float:
        """Seconds of a busy replica that an answer takes if nothing of its prompt is found."""
        return prompt * self.prompt_token / 1000 + answer * self.step(self.n_seq) / self.n_seq
