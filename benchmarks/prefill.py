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

SIZES = (1, 16, 32, 64, 128)
ROUNDS = 7


def measure(context: Context, size: int) -> float:
    """Tokens a second of one decode of so many tokens of one prompt, with nothing before it."""
    plan = Plan()
    plan.operations.append(Trim(0, 0))
    plan.add(0, [1000] * size, 0)
    plan.outputs[size - 1] = 0
    start = time.perf_counter()
    context.carry_out(plan)
    seconds = time.perf_counter() - start
    return size / seconds


def main() -> None:
    """Measure the sizes in turn, several times, and print median and range."""
    path = sys.argv[1] if len(sys.argv) > 1 else str(default_model())
    model = Model(path, LoadOptions(), False, lambda fraction: None)
    context = Context(model, LoadOptions())
    rates: dict[int, list[float]] = {size: [] for size in SIZES}
    measure(context, SIZES[-1])
    for _ in range(ROUNDS):
        for size, found in rates.items():
            found.append(measure(context, size))
    print("tokens in a decode   tokens/s   range")
    for size, found in rates.items():
        print(f"{size:18}   {median(found):8.0f}   {min(found):.0f} to {max(found):.0f}")


if __name__ == "__main__":
    main()
