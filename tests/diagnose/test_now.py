"""How a training stands, told while it runs."""

import pytest
import torch
from torch import nn

import gradscope
from gradscope.diagnose import now
from gradscope.report.live_view import when


@pytest.mark.parametrize(("bad", "said"), [(10, "steps 5-14"), (40, "from step 5 on")])
def test_alarms_that_are_no_longer_recorded_have_no_last_step(bad: int, said: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.watch(model) as scope:
        for step in range(5 + bad):
            x = torch.randn(8, 4) * (float("nan") if step >= 5 else 1.0)
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    alarms = now.now(scope.recording).alarms
    (loss,) = (alarm for alarm in alarms if alarm.text.startswith("the loss is not finite"))
    assert when(loss) == said
