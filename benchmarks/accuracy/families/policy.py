"""Reinforcement learning: a policy is rewarded for the right answer and never told which it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.accuracy.cases import Batch, Draft, Family
from benchmarks.accuracy.data import Data
from benchmarks.accuracy.families.common import rates
from benchmarks.accuracy.objectives import SAMPLES, call, output_of


class ActorCritic(nn.Module):
    """A body, scores of the actions, and a guess of the reward."""

    def __init__(self, data: Data) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(data.x[0].numel(), 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh()
        )
        self.actor, self.value = nn.Linear(48, data.outputs), nn.Linear(48, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and guess."""
        hidden = self.body(x)
        return self.actor(hidden), self.value(hidden)[:, 0]


def _criterion(output: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
    scores, guess = output
    # sampled by Gumbel noise (Gumbel 1954): unlike torch.distributions it lets a NaN pass, so that
    # a training that has broken runs to its end
    noise = -torch.empty_like(scores).exponential_().log()
    chosen = (scores.detach() + noise).argmax(-1)
    reward = (chosen == batch[1]).float()
    advantage = reward - guess.detach()
    taken = functional.log_softmax(scores, -1).gather(1, chosen[:, None])[:, 0]
    return -(taken * advantage).mean() + 0.5 * functional.mse_loss(guess, reward)


def _measure(draft: Draft) -> float:
    """Share of the reward that chance misses and the policy gets."""
    scores = output_of(draft)[0]
    right = scores.softmax(-1).gather(1, draft.data.y[:SAMPLES, None]).mean()
    chance = 1 / draft.data.outputs
    return max(0.0, float((right - chance) / (1 - chance)))


def _build(variant: str, data: Data) -> Draft:
    return Draft(
        ActorCritic(data), data, call, _criterion, _measure, optimizer="", lr=1.0, batch=64
    )


POLICY = Family("policy", "reporting", {"actor-critic": ("digits", "wine")}, rates(2.0), _build)
