"""Prompt tokens a second by the number of tokens in a decode, and of tokens before them.

What `engine.llama.context.CHUNK` and `Model.attention_costs` are chosen by.

    python -m benchmarks.prefill [MODEL.gguf]

In this process, without the bridge; weight repacking is off, as it is on CPUs with AMX.
"""

from __future__ import annotations

import sys
import time
from statistics import median

from ctl.catalog import default_model
from engine import LoadOptions
from engine.llama import Context, Model
from engine.plan import Plan, Trim

SIZES = (16, 32, 63, 64, 128, 255)
BEFORE = (0, 1000, 4000)
ROUNDS = 5


def compute(context: Context, start: int, size: int) -> float:
    """Seconds of a decode of so many tokens of one prompt, behind ``start`` others."""
    plan = Plan()
    plan.operations.append(Trim(0, start))
    plan.add(0, [1000] * size, start)
    plan.outputs[size - 1] = 0
    begin = time.perf_counter()
    context.carry_out(plan)
    return time.perf_counter() - begin


def main() -> None:
    """Measure the sizes in turn, several times, and print median and range."""
    path = sys.argv[1] if len(sys.argv) > 1 else str(default_model())
    model = Model(path, LoadOptions(), False, lambda fraction: None)
    context = Context(model, LoadOptions(n_ctx=8192, n_cells=8192, n_seq=1))
    context.warm_up()
    print("tokens before   tokens at once   tokens/s   range")
    for before in BEFORE:
        for start in range(0, before, 250):
            compute(context, start, 250)
        rates: dict[int, list[float]] = {size: [] for size in SIZES}
        for _ in range(ROUNDS):
            for size, found in rates.items():
                found.append(size / compute(context, before, size))
        for size, found in rates.items():
            spread = f"{min(found):.0f} to {max(found):.0f}"
            print(f"{before:13}   {size:14}   {median(found):8.0f}   {spread}")


if __name__ == "__main__":
    main()
