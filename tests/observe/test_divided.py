"""The divisor that stands at the end of a loss's graph."""

import pytest
import torch

from gradscope.observe.steps.divided import divided_by

LOSS = torch.ones(3, requires_grad=True)
LEARNED = torch.tensor(4.0, requires_grad=True)


@pytest.mark.parametrize(
    ("loss", "divisor"),
    [
        (LOSS.sum() / 4, 4),
        (LOSS.sum() * 0.25, 4),
        (0.25 * LOSS.sum(), 4),
        (LOSS.sum() / torch.tensor(4), 4),
        (LOSS.sum(), None),
        (LOSS.sum() / 0.5, None),
        (LOSS.sum() * 3, None),
        (LOSS.sum() / -4, None),
        (LOSS.sum() / LEARNED, None),
        (LOSS.sum() / 4 + 0.1, None),
        (torch.tensor(1.0), None),
    ],
)
def test_what_a_loss_was_divided_by(loss, divisor):
    assert divided_by(loss) == (None if divisor is None else pytest.approx(divisor))
