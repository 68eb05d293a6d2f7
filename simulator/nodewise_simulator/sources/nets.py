"""Small dense nets with ReLU in numpy, initialised and trained by torch's defaults: what the sources' learners are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.floating[Any]]]

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # of Adam, torch's defaults


class Net:
    """Dense layers of `sizes`, ReLU between them; trained by Adam."""

    def __init__(self, sizes: Sequence[int], rng: np.random.Generator, step: float = 1e-3) -> None:
        self.weights: list[Array] = []
        """Weights [in, out] and biases [out] by turns, in float32."""
        for fan_in, fan_out in pairwise(sizes):
            bound = 1.0 / np.sqrt(fan_in)
            self.weights.append(rng.uniform(-bound, bound, (fan_in, fan_out)).astype(np.float32))
            self.weights.append(rng.uniform(-bound, bound, fan_out).astype(np.float32))
        self.step = step
        """Of Adam; may be changed while it learns."""
        self._updates = 0
        self._mean = [np.zeros_like(w) for w in self.weights]
        self._square = [np.zeros_like(w) for w in self.weights]

    def copy_from(self, other: Net) -> None:
        """Take the weights of another net of the same sizes."""
        self.weights = [w.copy() for w in other.weights]

    def __call__(self, x: Array) -> Array:
        """Outputs [N, out] of inputs [N, in]."""
        return self.layers(x)[-1]

    def layers(self, x: Array) -> list[Array]:
        """Inputs [N, in], what each hidden layer makes of them, and outputs [N, out]."""
        layers: list[Array] = [np.asarray(x, np.float32)]
        for k in range(0, len(self.weights), 2):
            y = layers[-1] @ self.weights[k] + self.weights[k + 1]
            layers.append(np.maximum(y, 0.0) if k + 2 < len(self.weights) else y)
        return layers

    def learn(self, x: Array, target: Array, chosen: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None) -> None:
        """One Adam step on the mean squared error of outputs [N, out], or of output `chosen` [N] alone, to `target`."""
        layers = self.layers(x)
        count = len(layers[0])
        if chosen is None:
            slope = 2.0 * (layers[-1] - target.reshape(layers[-1].shape)) / layers[-1].size
        else:
            slope = np.zeros_like(layers[-1])
            row = np.arange(count)
            slope[row, chosen] = 2.0 * (layers[-1][row, chosen] - target) / count
        self.descend(layers, slope)

    def descend(self, layers: list[Array], slope: Array) -> None:
        """One Adam step; `layers` of the inputs, `slope` [N, out] of the loss by the outputs."""
        slope = slope.astype(np.float32)
        gradients: list[Array] = [slope] * len(self.weights)
        for k in range(len(self.weights) - 2, -1, -2):
            below = layers[k // 2]
            gradients[k], gradients[k + 1] = below.T @ slope, slope.sum(axis=0)
            slope = (slope @ self.weights[k].T) * (below > 0.0)
        self._updates += 1
        rate = self.step * np.sqrt(1.0 - _BETA2**self._updates) / (1.0 - _BETA1**self._updates)
        for weight, gradient, mean, square in zip(self.weights, gradients, self._mean, self._square, strict=True):
            mean += (1.0 - _BETA1) * (gradient - mean)
            square += (1.0 - _BETA2) * (gradient * gradient - square)
            weight -= (rate * mean / (np.sqrt(square) + _EPSILON)).astype(np.float32)
