"""Synthetic recordings whose weights move: distances, update ratios, sketches."""

from __future__ import annotations

import numpy as np
from synthetic import Synthetic

from gradscope.recording.facts import BY_NAME, SKETCH_SIZE
from gradscope.recording.reader import Recording


class Moving(Synthetic):
    """A recording in which one weight matrix goes its way."""

    def __init__(self, steps: int = 100) -> None:
        super().__init__(steps)
        self.module_id, self.weight = self.layer("0")
        self._sketches: list[tuple[int, int, int, np.ndarray]] = []

    def way(self, distance: float = 0.1, ratio: float = 1e-3, *, start: float = 1.0) -> None:
        """The weights go ``distance`` times their size ``start`` by the last step, evenly."""
        for row in self._updates:
            share = (row["step"] + 1) / self.steps
            row["before_sq"] = start**2
            row["distance_sq"] = (distance * start * share) ** 2
            row["delta_sq"] = (ratio * start) ** 2

    def gradients(self, agreement: float, *, left: float | None = None, scale: float = 1.0) -> None:
        """Sketched gradients of which ten agree to ``agreement`` (0.1 to 1).

        Each is a common direction and one of its own, at right angles to all others of a window:
        ten of them of unit length whose common part has the square c agree to (10 c + 1 - c) / 10.
        ``left`` gives updates along which this part of the slope is left one step later.
        """
        common = (10 * agreement - 1) / 9
        for step in range(self.steps):
            gradient = np.zeros(SKETCH_SIZE)
            gradient[0] = np.sqrt(common)
            gradient[1 + step % 10] = np.sqrt(1 - common)
            self._sketches.append((step, self.weight, 0, scale * gradient))
            if left is not None:
                behind = np.zeros(SKETCH_SIZE)
                behind[0] = np.sqrt(common)
                behind[1 + (step + 1) % 10] = np.sqrt(1 - common)
                # an update u with <g, u> = -1 and <g', u> = -left, in the plane of both gradients
                table = np.array([[1, gradient @ behind], [gradient @ behind, 1]])
                a, b = np.linalg.solve(table, [-1, -left])
                self._sketches.append((step, self.weight, 1, a * gradient + b * behind))

    def build(self) -> Recording:
        """The recording."""
        made = super().build()
        rows = np.zeros(len(self._sketches), BY_NAME["sketches"].dtype)
        for row, (step, parameter, of_update, vector) in zip(rows, self._sketches, strict=True):
            largest = np.abs(vector).max()
            row["step"], row["parameter"], row["of_update"] = step, parameter, of_update
            row["scale"] = largest / 127
            row["values"] = np.rint(vector / (largest / 127))
        return Recording(
            {**made._rows, "sketches": rows}, made._records, blobs={"units": self._blob}
        )
