"""What llama.cpp's cache would hold, were it carrying out plans: the tests' model of it."""

from __future__ import annotations

from engine.plan import Copy, Drop, Plan, Reshape, Restore, Save, Shape, Trim


class RealCache:
    """Carries out plans, and asserts what llama.cpp would complain about.

    store: tokens that may be saved.
    """

    def __init__(self, shape: Shape, store: int = 0) -> None:
        self.shape = shape
        self.store = store
        self.sequences: dict[int, list[tuple[int, object]]] = {}
        self.saved: dict[int, list[int]] = {}

    def carry_out(self, plan: Plan) -> None:
        for operation in plan.operations:
            self.operate(operation)
            self.check()
        assert list(plan.seqs) == sorted(plan.seqs)
        for token, position, seq in zip(plan.tokens, plan.positions, plan.seqs, strict=True):
            assert position == len(self.of(seq))
            self.of(seq).append((token, object()))
        self.check()

    def of(self, seq: int) -> list[tuple[int, object]]:
        assert 0 <= seq < self.shape.n_seq
        return self.sequences.setdefault(seq, [])

    def tokens(self, seq: int) -> list[int]:
        return [token for token, _ in self.of(seq)]

    def operate(self, operation) -> None:
        match operation:
            case Trim(seq, start):
                del self.of(seq)[start:]
            case Copy(src, dst, n):
                assert not self.of(dst)
                assert 0 < n <= len(self.of(src))
                cells = self.of(src)[:n]
                self.sequences[dst] = (
                    cells if self.shape.unified else [(token, object()) for token, _ in cells]
                )
            case Save(seq, key):
                assert key not in self.saved
                self.saved[key] = self.tokens(seq)
            case Restore(key, dst, n):
                assert not self.of(dst)
                # llama.cpp brings all of it back before it can be cut.
                self.sequences[dst] = [(token, object()) for token in self.saved[key]]
                self.check()
                assert 0 < n <= len(self.of(dst))
                del self.of(dst)[n:]
            case Drop(key):
                del self.saved[key]
            case Reshape(shape, moves):
                tokens = {new: self.tokens(old) for old, new in moves}
                self.shape, self.sequences = shape, {}
                for new, has in tokens.items():
                    self.of(new).extend((token, object()) for token in has)
            case _:
                raise AssertionError(operation)

    def check(self) -> None:
        if self.shape.unified:
            cells = {cell for held in self.sequences.values() for _, cell in held}
            assert len(cells) <= self.shape.n_cells
        else:
            assert all(len(held) <= self.shape.n_ctx for held in self.sequences.values())
        assert sum(map(len, self.saved.values())) <= self.store
