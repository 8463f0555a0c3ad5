"""What the shape of the KV cache costs, and what moving in it: the figures in docs/design.md.

    python -m benchmarks.cache [MODEL.gguf]

In this process, without the bridge; weight repacking is off, as it is on CPUs with AMX. Medians
of several rounds, in which the ways take turns.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

from ctl.catalog import default_model
from engine import LoadOptions
from engine.llama import Context, Model
from engine.plan import Copy, Operation, Plan, Reshape, Save, Shape, Trim

N_CELLS = 16384
SHORT, LONG = 60, 690
"""Tokens of a sequence."""
STEPS, ROUNDS = 15, 3


def fill(context: Context, seqs: list[int], n_tokens: int) -> None:
    """Compute so many tokens in each of these sequences."""
    for seq in seqs:
        for start in range(0, n_tokens, 128):
            plan = Plan()
            plan.add(seq, [1000 + start] * min(128, n_tokens - start), start)
            context.carry_out(plan)


def step(context: Context, seqs: list[int], at: int) -> float:
    """Milliseconds of a decode with one token in each of these sequences."""
    plan = Plan()
    for row, seq in enumerate(seqs):
        plan.add(seq, [1000 + seq], at)
        plan.outputs[row] = row
    start = time.perf_counter()
    context.carry_out(plan)
    return (time.perf_counter() - start) * 1000


def decode(context: Context, shape: Shape, seqs: list[int], kept: int = 0) -> float:
    """Milliseconds of a decode in a cache of that shape, with some long sequences kept."""
    context.forget(shape)
    fill(context, list(range(shape.n_seq - kept, shape.n_seq)), LONG)
    fill(context, seqs, LONG if kept else SHORT)
    at = LONG if kept else SHORT
    return median(step(context, seqs, at + n) for n in range(STEPS))


def operate(context: Context, *operations: Operation) -> float:
    """Milliseconds that operations take, beyond a decode of one token."""
    plan = Plan(operations=[*operations, Trim(0, 0)])
    plan.add(0, [1000], 0)
    start = time.perf_counter()
    context.carry_out(plan)
    return (time.perf_counter() - start) * 1000 - step(context, [0], 1)


def streams(n: int) -> Shape:
    return Shape(n, N_CELLS, unified=False)


def moves(context: Context) -> dict[str, float]:
    """Milliseconds of each way to move what a long sequence holds."""
    context.forget(streams(16))
    fill(context, [1], LONG)
    found = {
        "copy to another stream": operate(context, Copy(1, 2, LONG)),
        "to three more": operate(context, *(Copy(1, seq, LONG) for seq in (3, 4, 5))),
        "save": operate(context, Save(1, 1)),
    }
    reshape = Reshape(Shape(16, N_CELLS, unified=True), ((1, 1), (2, 2)))
    return found | {"cut the cache anew, with two": operate(context, reshape)}


def main() -> None:
    """Measure and print two tables."""
    path = sys.argv[1] if len(sys.argv) > 1 else str(default_model())
    model = Model(path, LoadOptions(), False, lambda fraction: None)
    context = Context(model, LoadOptions(n_ctx=N_CELLS, n_cells=N_CELLS))
    context.warm_up()
    unified = Shape(32, N_CELLS, unified=True)
    ways: dict[str, Callable[[], float]] = {}
    for n in (1, 4, 10, 32):
        seqs = list(range(n))
        ways[f"{n} | unified"] = partial(decode, context, unified, seqs)
        ways[f"{n} | streams"] = partial(decode, context, streams(32), seqs)
    ways["1, three long ones kept | unified"] = partial(decode, context, unified, [0], 3)
    ways["1, three long ones kept | streams"] = partial(decode, context, streams(16), [0], 3)
    apart = list(range(0, 20, 2))
    ways["10, in every second one | streams"] = partial(decode, context, streams(20), apart)
    found: dict[str, list[float]] = {way: [] for way in ways}
    moved: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for way, measure in ways.items():
            found[way].append(measure())
        for move, taken in moves(context).items():
            moved.setdefault(move, []).append(taken)
    print(f"milliseconds of a decode, sequences of {SHORT} tokens, long ones of {LONG}\n")
    print("| answers | cache | median [spread] |\n| --- | --- | --- |")
    for way, values in found.items():
        print(f"| {way} | {median(values):.1f} [{min(values):.1f}–{max(values):.1f}] |")
    print(f"\nmilliseconds to move what a sequence of {LONG} tokens holds\n")
    print("| | median [spread] |\n| --- | --- |")
    for move, values in moved.items():
        print(f"| {move} | {median(values):.1f} [{min(values):.1f}–{max(values):.1f}] |")


if __name__ == "__main__":
    main()
