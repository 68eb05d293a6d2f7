"""The network of the learned policy: a correction, in cents, to what `economic` believes a placement costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nodewise.core.columns import COLUMNS, split
from nodewise.core.errors import UserError
from nodewise.policies.economic import TERMS
from nodewise_simulator.scorer import CENT_SCALE, LIMIT

F32 = NDArray[np.float32]

INPUTS = {"node": "node", "pair": "pair", "request": "pod or cluster"}
"""The inputs of the network, and the scopes of the columns that each holds, in card order."""

_LEAST_STD = 1e-2
"""A column that hardly varied in training is not looked at: nothing was learned of what it means when it does."""


def places(columns: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Where the columns of each input stand in card order. Raises UserError if an input has none."""
    for name in columns:
        if name not in COLUMNS:
            raise UserError(f"there is no column {name!r}; a policy may look at {', '.join(COLUMNS)}")
    found = {part: np.array(at, np.int64) for part, at in zip(INPUTS, split(columns), strict=True)}
    for part, scopes in INPUTS.items():
        if not found[part].size:
            raise UserError(f"a policy needs at least one column of scope {scopes}; add one")
    return found


def transformed(columns: Sequence[str], features: F32) -> NDArray[np.float64]:
    """Features [N, K] as the network sees them before scaling: cents as log(1 + 100 x), the rest as they are."""
    cents = np.array([COLUMNS[name].unit == "cents" for name in columns])
    values = features.astype(np.float64)
    values[:, cents] = np.log1p(CENT_SCALE * values[:, cents])
    return values


class Scorer(nn.Module):
    """Scores of the candidates of B decisions, in cents; higher is better. Untrained it scores as `economic` does.

    A candidate is encoded from its node's columns alone (which a server may keep), then joined with its pair columns
    and the request's, then compared with the other candidates through the mean and the maximum of what they became
    (deep sets, Zaheer et al. 2017). Its own believed cost goes around all that.
    """

    def __init__(self, columns: Sequence[str], hidden: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.columns, self.hidden = tuple(columns), hidden
        self.places = places(columns)
        names = {part: [columns[k] for k in at] for part, at in self.places.items()}
        self._with_cents: set[str] = set()
        for part, of in names.items():
            cents = torch.tensor([float(COLUMNS[name].unit == "cents") for name in of])
            self.register_buffer(f"{part}_log", cents)
            self._with_cents |= {part} if cents.any() else set()
            self.register_buffer(f"{part}_shift", torch.zeros(len(of)))
            self.register_buffer(f"{part}_factor", torch.ones(len(of)))
        terms = [name for name in names["pair"] if name in TERMS]
        one_hot = torch.tensor([[float(name == term) for term in terms] for name in names["pair"]])
        self.register_buffer("terms", one_hot)  # [Kr, T]

        generator = torch.Generator().manual_seed(seed)

        def weight(inputs: int, fan_in: int) -> nn.Parameter:
            """As Kaiming, but by the width of the whole layer, of which this is a part."""
            return nn.Parameter(torch.randn(hidden, inputs, generator=generator) * (2.0 / fan_in) ** 0.5)

        k = len(self.columns)
        self.node_weight = weight(len(names["node"]), k)
        self.pair_weight = weight(len(names["pair"]), k)
        self.request_weight = weight(len(names["request"]), k)
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.second_weight = weight(hidden, 3 * hidden)
        self.pool_weight = weight(2 * hidden, 3 * hidden)  # of the mean, then of the maximum
        self.second_bias = nn.Parameter(torch.zeros(hidden))
        self.output_weight = nn.Parameter(torch.zeros(hidden))
        self.skip = nn.Parameter(torch.ones(len(terms)))

    @property
    def parameter_count(self) -> int:
        """How many numbers are learned."""
        return sum(p.numel() for p in self.parameters())

    def set_scale(self, means: NDArray[np.float64], stds: NDArray[np.float64]) -> None:
        """Mean and standard deviation of each column, `transformed`, in card order [K]; once, before training."""
        for part, at in self.places.items():
            factor = np.where(stds[at] < _LEAST_STD, 0.0, 1.0 / np.maximum(stds[at], _LEAST_STD))
            self.get_buffer(f"{part}_shift").copy_(torch.from_numpy(means[at].astype(np.float32)))
            self.get_buffer(f"{part}_factor").copy_(torch.from_numpy(factor.astype(np.float32)))

    def split(self, features: F32) -> tuple[F32, F32, F32]:
        """(node [M, Kn], pair [M, Kr], request [Kp]) of the features of one decision [M, K], in card order."""
        at = self.places
        node, pair, request = (np.ascontiguousarray(features[:, at[part]]) for part in INPUTS)
        return node, pair, request[0]

    def arrays(self) -> dict[str, F32]:
        """Everything that scores, by name, for `nodewise_simulator.scorer.weights_of`."""
        state = {name: value.detach().numpy().copy() for name, value in self.state_dict().items()}
        return state | {"pair_skip": state["terms"] @ state["skip"]}

    def forward(self, node: Tensor, pair: Tensor, request: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores [B, M] of node [B, M, Kn], pair [B, M, Kr] and request [B, Kp]; the B may be left out of all.

        `mask` [B, M] is true for candidates; what is none scores minus infinity and is seen by no other.
        """
        return self.join(self.encode(node), pair, request, mask)

    def encode(self, node: Tensor) -> Tensor:
        """What the first layer takes from the node alone, [B, M, H]."""
        return functional.linear(self._scaled("node", node), self.node_weight)

    def join(self, encoding: Tensor, pair: Tensor, request: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores [B, M] from encodings [B, M, H]."""
        asked = functional.linear(self._scaled("request", request), self.request_weight, self.hidden_bias)
        # In place, for training is bound by memory: no gradient needs what is overwritten.
        first = functional.linear(self._scaled("pair", pair), self.pair_weight)
        first = first.add_(encoding).add_(asked.unsqueeze(-2))
        if mask is None:
            first = first.relu_()
            mean = first.mean(-2)
        else:
            # So low that relu makes it zero: what is never negative has the same maximum with zeros among it.
            first = first.add_(torch.where(mask, 0.0, -1e30).unsqueeze(-1)).relu_()
            mean = first.sum(-2) / mask.sum(-1, keepdim=True)
        # The exporter runs without gradients and so sees the plain operator.
        most = _most(first) if torch.is_grad_enabled() else first.amax(-2)
        pool = torch.cat([mean, most], -1)
        others = functional.linear(pool, self.pool_weight, self.second_bias)
        second = functional.linear(first, self.second_weight).add_(others.unsqueeze(-2)).relu_()
        scores = second @ self.output_weight - pair @ (self.get_buffer("terms") @ self.skip)
        return scores if mask is None else scores.masked_fill(~mask, -torch.inf)

    def _scaled(self, part: str, values: Tensor) -> Tensor:
        log, shift, factor = (self.get_buffer(f"{part}_{name}") for name in ("log", "shift", "factor"))
        if part in self._with_cents:
            # The logarithm of one is zero, so that each column comes out of one of the two terms.
            values = values * (1.0 - log) + torch.log(1.0 + values * (CENT_SCALE * log))
        return ((values - shift) * factor).clamp(-LIMIT, LIMIT)

    def encoder(self) -> Encoder:
        """The half that is exported as `encoder.onnx`."""
        return Encoder(self)

    def head(self) -> Head:
        """The half that is exported as `head.onnx`."""
        return Head(self)


class _Most(torch.autograd.Function):
    """`x.amax(-2)`, whose own gradient takes as long as half of the network."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        most = x.amax(-2, keepdim=True)
        ctx.save_for_backward(x, most)
        return most.squeeze(-2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, most = ctx.saved_tensors
        hit = (x - most).sign_().add_(1.0)  # those that are as large share the gradient
        shared: Tensor = hit.mul_(gradient.unsqueeze(-2) / hit.sum(-2, keepdim=True))
        return shared


_most: Callable[[Tensor], Tensor] = _Most.apply


class Encoder(nn.Module):
    """node [M, Kn] -> encoding [M, H]."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, node: Tensor) -> Tensor:
        """See the class."""
        return self.scorer.encode(node)


class Head(nn.Module):
    """encoding [M, H], pair [M, Kr], request [Kp] -> score [M]."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, encoding: Tensor, pair: Tensor, request: Tensor) -> Tensor:
        """See the class."""
        return self.scorer.join(encoding, pair, request)
