"""REINFORCE on a corridor: walk right to the goal."""

from itertools import count

import numpy as np
import torch
import torch.nn as nn
import torch.optim as optim
from torch.distributions import Categorical


class Corridor:
    def __init__(self, length=6):
        self.length = length
        self.rng = np.random.RandomState(543)

    def reset(self):
        self.at = self.rng.randint(self.length - 1)
        return self.state()

    def state(self):
        return np.eye(self.length, dtype=np.float32)[self.at]

    def step(self, action):
        self.at = max(0, self.at + (1 if action == 1 else -1))
        done = self.at == self.length - 1
        return self.state(), (1.0 if done else -0.1), done


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.affine1 = nn.Linear(6, 16)
        self.affine2 = nn.Linear(16, 2)
        self.saved_log_probs = []
        self.rewards = []

    def forward(self, x):
        return torch.softmax(self.affine2(torch.relu(self.affine1(x))), dim=-1)


env = Corridor()
torch.manual_seed(543)
policy = Policy()
optimizer = optim.Adam(policy.parameters(), lr=1e-2)
eps = np.finfo(np.float32).eps.item()


def select_action(state):
    probs = policy(torch.from_numpy(state).unsqueeze(0))
    m = Categorical(probs)
    action = m.sample()
    policy.saved_log_probs.append(m.log_prob(action))
    return action.item()


def finish_episode():
    R = 0
    returns = []
    for r in policy.rewards[::-1]:
        R = r + 0.99 * R
        returns.insert(0, R)
    returns = torch.tensor(returns)
    if len(returns) > 1:
        returns = (returns - returns.mean()) / (returns.std() + eps)
    policy_loss = [-p * R for p, R in zip(policy.saved_log_probs, returns)]
    optimizer.zero_grad()
    torch.cat(policy_loss).sum().backward()
    optimizer.step()
    del policy.rewards[:]
    del policy.saved_log_probs[:]


def main():
    running = 10.0
    for i_episode in count(1):
        state = env.reset()
        for t in range(1, 40):
            state, reward, done = env.step(select_action(state))
            policy.rewards.append(reward)
            if done:
                break
        running = 0.9 * running + 0.1 * t
        finish_episode()
        if i_episode % 5 == 0:
            print(f"Episode {i_episode}\tlength {t}\taverage {running:.2f}")
        if i_episode == 20:
            break
    torch.save(policy.state_dict(), "policy.pt")


if __name__ == "__main__":
    main()
