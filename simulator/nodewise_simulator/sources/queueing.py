"""`S0q-array`: the world of `S0q` as arrays, with what only arrays are fast enough for: a tuned weight and a bound."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import Floats
from nodewise_simulator.sources.checks import require_policy, require_whole
from nodewise_simulator.sources.nets import Net
from nodewise_simulator.sources.queueing_learners import Arrivals, improved, served_by, trained
from nodewise_simulator.sources.replay_data import SLA_DEADLINE_S, SLA_SIZE, SLA_SPEEDS
from nodewise_simulator.sources.replay_learners import DQN_A, DQN_B
from nodewise_simulator.sources.servers import TRAINING_SEEDS, WEIGHTS, pooled_srpt, serve, serve_shortest_queue
from nodewise_simulator.studies import Study
from nodewise_simulator.world import QUANTUM_S

_NAME = "S0q-array"
_SPEEDS = np.array(SLA_SPEEDS)
_EPISODE_SEEDS = 910_000
"""First seed of the traces that a DQN is trained on."""

_POLICIES = {
    "round-robin": "as coded: task number mod 4; unstable above rho 0.68",
    "join-shortest-queue": "ours: fewest tasks",
    "lwr-wait": "as coded, on real waits: least wait ÷ speed",
    "earliest-finish-time": "ours: least wait + service",
    "tuned-index": "ours: least a × wait + service, a chosen on training seeds",
    "policy-improvement": "ours: one step of policy improvement over splitting arrivals by speed",
    "dqn-a": "as coded, module 1's net in a queue: 50 episodes of 1,000 tasks, then greedy; often unstable",
    "dqn-b": "as coded, module 1's second variant in a queue: 60 episodes of 1,200 tasks, then greedy",
    "pooled-srpt": "bound, not proved: of each task, the larger of its response on one pooled server (shortest "
    "remaining first) and its service on the fastest",
    "bound": "bound: the larger of the means of the two",
}
_UNITS = {"response_mean": "s", "response_p95": "s", "sla": "share", "weight": "a of a × wait + service"}


@lru_cache(maxsize=8)
def _trace(seed: int, rho: float, tasks: int) -> tuple[Floats, Floats, Floats]:
    """Arrivals [N], sizes [N] and deadlines [N] (after arrival), drawn as `scenarios.queueing.s0q` draws them."""
    rng = np.random.default_rng([seed, 0])
    arrivals = np.cumsum(rng.exponential(np.mean(SLA_SIZE) / (rho * float(_SPEEDS.sum())), tasks))
    arrival_s = np.round(arrivals / QUANTUM_S) * QUANTUM_S
    return arrival_s, rng.uniform(*SLA_SIZE, tasks), rng.uniform(*SLA_DEADLINE_S, tasks)


def _services(size: Floats) -> Floats:
    """[N, 4] seconds, rounded up as the engine's clock does."""
    return np.asarray(np.ceil(size[:, None] / _SPEEDS / QUANTUM_S - 1e-9) * QUANTUM_S)


@lru_cache(maxsize=32)
def tuned_weight(rho: float, tasks: int, warm: int) -> float:
    """The weight with the least mean response over the training seeds."""
    total = np.zeros(len(WEIGHTS))
    for seed in TRAINING_SEEDS:
        arrival_s, size, _ = _trace(seed, rho, tasks)
        service_s = _services(size)
        total += serve(arrival_s, service_s, service_s, np.array(WEIGHTS)[:, None])[warm:].mean(axis=0)
    return WEIGHTS[int(total.argmin())]


def _responses(policy: str, arrival_s: Floats, size: Floats, weight: float, rho: float) -> Floats:
    service_s = _services(size)
    if policy == "policy-improvement":
        return improved(arrival_s, service_s, rho * _SPEEDS / np.mean(SLA_SIZE), rho)
    if policy == "join-shortest-queue":
        return serve_shortest_queue(arrival_s, service_s)
    if policy == "round-robin":
        key = np.where(np.arange(len(size))[:, None] % 4 == np.arange(4), 0.0, np.inf)
        return serve(arrival_s, service_s, key, np.zeros((1, 1)))[:, 0]
    if policy == "lwr-wait":
        return serve(arrival_s, service_s, np.zeros_like(service_s), 1.0 / _SPEEDS[None, :])[:, 0]
    return serve(arrival_s, service_s, service_s, np.array([[weight]]))[:, 0]


def _arrivals(seed: int, rho: float, tasks: int) -> Arrivals:
    """The trace of a seed; the priorities, that only a net is shown, are of a stream of their own."""
    priority = np.random.default_rng([seed, 13]).integers(1, 4, tasks).astype(float)
    return Arrivals(*_trace(seed, rho, tasks), priority)


@lru_cache(maxsize=8)
def _trained(policy: str, agent: int, rho: float, episodes: int) -> Net:
    settings = DQN_A if policy == "dqn-a" else DQN_B
    first = _EPISODE_SEEDS + 1000 * agent
    rng = np.random.default_rng([agent, 14])
    return trained(lambda number: _arrivals(first + number, rho, settings.episode_rows + 1), settings, rng, episodes)


def _play(
    policy: str,
    seed: int,
    rho: float = 0.8,
    pods: int = 18000,
    warm: int = 2000,
    weight: float = 0.0,
    episodes: int = 0,
    agent: int = 0,
) -> dict[str, float]:
    """`episodes` of a DQN's training, 0 the source's number; `agent` is its seed, whatever the trace's."""
    require_policy(_NAME, policy, _POLICIES)
    require_whole(_NAME, "pods", pods)
    for name, value in (("seed", seed), ("warm", warm), ("episodes", episodes), ("agent", agent)):
        require_whole(_NAME, name, value, 0)
    if not 0.0 < rho < 1.0 or not weight >= 0.0:
        raise UserError(f"scenario {_NAME} needs 0 < rho < 1 and weight > 0 (or 0: chosen on training seeds)")
    arrival_s, size, deadline_s = _trace(seed, rho, warm + pods)
    a = 0.0
    if policy in ("pooled-srpt", "bound"):
        pooled_s, alone_s = pooled_srpt(arrival_s, size, float(_SPEEDS.sum())), size / _SPEEDS.max()
        larger = pooled_s[warm:].mean() > alone_s[warm:].mean()
        least = {"pooled-srpt": np.maximum(pooled_s, alone_s), "bound": pooled_s if larger else alone_s}
        response_s = least[policy]
    elif policy in ("dqn-a", "dqn-b"):
        net = _trained(policy, agent, rho, episodes)
        response_s = served_by(net, _arrivals(seed, rho, warm + pods), policy == "dqn-a")
    else:
        if policy in ("earliest-finish-time", "tuned-index"):
            a = 1.0 if policy == "earliest-finish-time" else weight or tuned_weight(rho, warm + pods, warm)
        response_s = _responses(policy, arrival_s, size, a, rho)
    counted_s = response_s[warm:]
    return {
        "response_mean": float(counted_s.mean()),
        "response_p95": float(np.percentile(counted_s, 95)),
        "sla": float((counted_s <= deadline_s[warm:]).mean()),
        "weight": a,
    }


STUDY = Study(
    name=_NAME,
    says="S0q as arrays: four servers with a queue each, with the tuned weight and the lower bound",
    source="ours, on the constants of Sreevishnu07/Advanced-ML-Based-Load-Balancing fd5178b",
    policies=_POLICIES,
    units=_UNITS,
    headline="response_mean",
    play=_play,
)
