"""The dueling deep Q-network of the hybrid CPU/GPU scheduler, in torch as there. Imported on first use: torch is big.

Source: repository anurag2796/hybrid-ml-scheduler, by its description and settings: 3-256-256-(1 + actions) with ReLU,
Adam 1e-4, Huber loss, double DQN. HEAD clips gradients to norm 1 and copies the target every 50 updates, the first
commit does not and copies every 100. HEAD's layers of batch normalisation are declared and never used, so they are not
here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

Choices = np.ndarray[tuple[int], np.dtype[np.int64]]
Inputs = np.ndarray[tuple[int, int], np.dtype[np.float32]]

_HIDDEN, _STEP, _CAPACITY = 256, 1e-4, 50_000


class _Dueling(nn.Module):
    def __init__(self, inputs: int, actions: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, _HIDDEN), nn.Linear(_HIDDEN, _HIDDEN)
        self.value, self.advantage = nn.Linear(_HIDDEN, 1), nn.Linear(_HIDDEN, actions)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.second(torch.relu(self.first(x))))
        advantage = self.advantage(hidden)
        return torch.as_tensor(self.value(hidden) + advantage - advantage.mean(dim=1, keepdim=True))


@dataclass(slots=True)
class _Replay:
    """A ring of transitions; every array is [capacity, …]."""

    state: Inputs
    following: Inputs
    action: Choices
    reward: np.ndarray[tuple[int], np.dtype[np.float32]]
    stored: int = 0


class Agent:
    """One agent; its weights, exploration and samples depend on `seed` alone."""

    def __init__(
        self, inputs: int, actions: int, seed: int, batch: int, gamma: float, target_every: int, clips: bool
    ) -> None:
        """`gamma` 0 is what "every transition is terminal" comes to."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._net, self._target = _Dueling(inputs, actions), _Dueling(inputs, actions)
        self._target.load_state_dict(self._net.state_dict())
        self._optimiser = torch.optim.Adam(self._net.parameters(), lr=_STEP)
        self._rng = np.random.default_rng([seed, 50])
        self._actions, self._batch, self._gamma, self._updates = actions, batch, gamma, 0
        self._target_every, self._clips = target_every, clips
        shape = (_CAPACITY, inputs)
        self._replay = _Replay(
            np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(_CAPACITY, np.int64),
            np.zeros(_CAPACITY, np.float32),
        )  # fmt: skip

    @torch.no_grad()
    def greedy(self, states: Inputs) -> Choices:
        """Actions [N] of the largest value in states [N, inputs]."""
        return np.asarray(self._net(torch.from_numpy(states)).argmax(dim=1))

    def act(self, state: Inputs, epsilon: float) -> int:
        """An action in state [1, inputs]: any, with probability epsilon."""
        if self._rng.random() < epsilon:
            return int(self._rng.integers(self._actions))
        return int(self.greedy(state)[0])

    def remember(self, state: Inputs, action: int, reward: float, following: Inputs) -> None:
        """Keep a transition; states are [1, inputs]."""
        slot = self._replay.stored % _CAPACITY
        self._replay.state[slot], self._replay.following[slot] = state[0], following[0]
        self._replay.action[slot], self._replay.reward[slot] = action, reward
        self._replay.stored += 1

    def learn(self) -> None:
        """One update from a batch of what is kept; nothing while that is less than a batch."""
        kept = min(self._replay.stored, _CAPACITY)
        if kept < self._batch:
            return
        pick = self._rng.integers(0, kept, self._batch)
        goal = torch.from_numpy(self._replay.reward[pick])
        if self._gamma:
            following = torch.from_numpy(self._replay.following[pick])
            with torch.no_grad():
                best = self._net(following).argmax(dim=1, keepdim=True)
                goal = goal + self._gamma * self._target(following).gather(1, best)[:, 0]
        action = torch.from_numpy(self._replay.action[pick])[:, None]
        valued = self._net(torch.from_numpy(self._replay.state[pick])).gather(1, action)[:, 0]
        self._step(self._optimiser, nn.functional.smooth_l1_loss(valued, goal), self._clips)
        self._updates += 1
        if self._updates % self._target_every == 0:
            self._target.load_state_dict(self._net.state_dict())

    def imitate(self, states: Inputs, labels: Choices, epochs: int, step: float = 1e-3) -> None:
        """Cross-entropy of values [N, actions] to labels [N], with an optimiser of its own."""
        x, y = torch.from_numpy(states), torch.from_numpy(labels)
        optimiser = torch.optim.Adam(self._net.parameters(), lr=step)
        for _ in range(epochs):
            order = torch.from_numpy(self._rng.permutation(len(labels)))
            for begin in range(0, len(order), self._batch):
                pick = order[begin : begin + self._batch]
                self._step(optimiser, nn.functional.cross_entropy(self._net(x[pick]), y[pick]))
        self._target.load_state_dict(self._net.state_dict())

    def _step(self, optimiser: Any, loss: torch.Tensor, clips: bool = False) -> None:
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if clips:
            nn.utils.clip_grad_norm_(self._net.parameters(), 1.0)
        optimiser.step()
