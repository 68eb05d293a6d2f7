"""Proximal policy optimisation of a per-node scorer that begins as `economic` (Schulman et al. 2017, arXiv:1707.06347).

One iteration: fresh worlds are warmed up by the rule; several segments of each are continued several times with nodes
drawn from softmax(sharpness × score); every decision is credited with how much less its pod cost, others included, than
the same pod did in the other continuations (`rollout`, `returns`); then a few epochs of the clipped surrogate over what
was recorded. An exponential average of the weights is what is validated and exported; nothing is selected by its score.

All that is random derives from (seed, iteration) and no schedule looks at the budget: a run that was killed and resumed
is the run that was not, and a longer one begins as a shorter one does.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nodewise.commit import commit as here
from nodewise.core.card import PolicyCard, widened
from nodewise.core.columns import COLUMNS
from nodewise.core.errors import UserError
from nodewise.policies.bundle import check_name
from nodewise_simulator.compiled.run import Net
from nodewise_simulator.scorer import weights_of
from nodewise_training.evaluate import SEEDS, Progress, Validation
from nodewise_training.export import check_new, write
from nodewise_training.logs import Logs
from nodewise_training.nets import Scorer
from nodewise_training.rollout import Batch, Collector, Plan
from nodewise_training.runs import Checkpoint, Run, load_checkpoint, make_folder, save_checkpoint, stopped
from nodewise_training.seen import Seen
from nodewise_training.worlds import check

ALGORITHM = "ppo"
SEES = tuple(name for name in COLUMNS if name != "log_waited")
"""The columns of the policy, in card order. Simulated pods are asked about at the instant they arrive, real ones up to
seconds after their creationTimestamp: what is learned of waiting would be wrong, and its range too narrow."""

TRAINING = "training"


@dataclass(frozen=True, slots=True)
class Settings:
    """What, with its seed and scenarios, determines a run."""

    plan: Plan = field(default_factory=Plan)
    hidden: int = 32
    epochs: int = 2
    minibatch: int = 2048
    microbatch: int = 128
    """Decisions in one pass of the network: the gradients of a minibatch add up, its activations stay in the cache."""
    learning_rate: float = 5e-4
    learning_rate_decay: float = 0.99
    """Factor per iteration, down to `least_learning_rate`."""
    least_learning_rate: float = 5e-5
    clip: float = 0.2
    entropy: float = 1e-3
    gradient_norm: float = 0.5
    average: float = 0.9
    """What the exported weights keep of themselves at each iteration."""
    validate_every: int = 10
    """Iterations."""
    validation: tuple[int, ...] = tuple(SEEDS)
    """Seeds of the worlds of validation."""


class Learner:
    """The scorer, its optimiser, its average, and what it has seen."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.scorer = Scorer(SEES, settings.hidden, seed)
        self.average = copy.deepcopy(self.scorer)
        self.optimiser = torch.optim.Adam(self.scorer.parameters(), settings.learning_rate, eps=1e-5)
        self.seen = Seen(self.scorer)
        self.iteration = self.decisions = 0

    def net(self, *, average: bool = False) -> Net:
        """The policy for the simulator: as it learns, or its average within the seen ranges, as it is exported."""
        weights, sizes = weights_of((self.average if average else self.scorer).arrays())
        if not average:
            return Net.unbounded(SEES, weights, sizes)
        return Net(SEES, weights, sizes, *widened(self.seen.low.astype(float), self.seen.high.astype(float)))

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs to go on as if nothing had happened."""
        return {
            "scorer": self.scorer.state_dict(), "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(), "seen": self.seen.state(),
            "iteration": self.iteration, "decisions": self.decisions,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """As it was when it gave `state`."""
        self.scorer.load_state_dict(state["scorer"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.seen.restore(state["seen"])
        self.iteration, self.decisions = state["iteration"], state["decisions"]

    def update(self, batch: Batch) -> dict[str, float]:
        """Learn from a batch; the means over its steps of what is worth a curve."""
        s = self.settings
        self.seen.add(batch.record, batch.index)
        if self.iteration == 0:
            for scorer in (self.scorer, self.average):
                scorer.set_scale(*self.seen.scale(batch.record, batch.index))
        rate = max(s.least_learning_rate, s.learning_rate * s.learning_rate_decay**self.iteration)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        rng, steps = np.random.default_rng([self.seed, self.iteration, 2]), 0
        sums = dict.fromkeys(("loss", "clipped", "kl", "entropy"), 0.0)
        for _ in range(s.epochs):
            order = rng.permutation(batch.index)
            for first in range(0, len(order), s.minibatch):
                mini = order[first : first + s.minibatch]
                self.optimiser.zero_grad()
                for at in range(0, len(mini), s.microbatch):
                    for name, value in self._backward(batch, mini[at : at + s.microbatch], len(mini)).items():
                        sums[name] += value
                torch.nn.utils.clip_grad_norm_(self.scorer.parameters(), s.gradient_norm)
                self.optimiser.step()
                steps += 1
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), self.scorer.parameters(), strict=True):
                kept.lerp_(new, 1.0 - s.average)
        self.iteration += 1
        self.decisions += len(batch.index)
        return {name: value / steps for name, value in sums.items()} | {"learning_rate": rate}

    def _backward(self, batch: Batch, rows: NDArray[np.int64], whole: int) -> dict[str, float]:
        """Add the gradient of these rows' share of a minibatch of `whole` decisions."""
        record, s = batch.record, self.settings
        _, candidates, chosen = record.choice[rows].T
        m = int(candidates.max())

        def tensor(values: NDArray[Any]) -> Tensor:
            return torch.from_numpy(values)

        mask = torch.arange(m) < tensor(candidates)[:, None]
        node, pair, request = record.node[rows, :m], record.pair[rows, :m], record.request[rows]
        score = self.scorer(tensor(node), tensor(pair), tensor(request), mask)
        log_all = torch.log_softmax(score * s.plan.sharpness, -1)
        log_new = log_all.gather(1, tensor(chosen.copy())[:, None])[:, 0]
        log_old = tensor(record.logp[rows].astype(np.float32))
        advantage = tensor(batch.advantage[rows].astype(np.float32))
        ratio = torch.exp(log_new - log_old)
        cut = ratio.clamp(1.0 - s.clip, 1.0 + s.clip)
        gain = torch.minimum(ratio * advantage, cut * advantage).sum()
        entropy = -(log_all.exp() * log_all.masked_fill(~mask, 0.0)).sum()
        loss: Tensor = -(gain + s.entropy * entropy) / whole
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            sums = {"clipped": (ratio != cut).sum(), "kl": (log_old - log_new).sum(), "entropy": entropy}
            return {"loss": float(loss)} | {name: float(value) / whole for name, value in sums.items()}


def train(
    scenarios: Sequence[str],
    seed: int,
    out: Path,
    *,
    decisions: int | None = None,
    minutes: float | None = None,
    resume: bool = False,
    settings: Settings | None = None,
    progress: Progress = lambda *_: None,
) -> Checkpoint:
    """Train until so many decisions were learned from or so many minutes have passed, whichever is first.

    `out` gets a checkpoint after each iteration, `log.jsonl` and TensorBoard events. `resume` goes on with what is
    there. Raises UserError, before anything is written, if nothing ends the run, or the folder or a scenario is of no
    use.
    """
    if not max(decisions or 0, minutes or 0) > 0:  # nan too
        raise UserError("nothing would end the training; give --minutes or --decisions above 0")
    settings = settings or Settings()
    run = Run(ALGORITHM, tuple(scenarios), seed, asdict(settings))
    found = stopped(out, run, resume=resume)
    if found is None:
        for text in scenarios:
            check(text, settings.validation[0], settings.plan.least_pods)
    make_folder(out)
    torch.set_num_threads(1)  # what is added up in one order gives one sum
    learner, spent_s, validated, commit = Learner(settings, seed), 0.0, [], here()
    if found is not None:
        learner.restore(found.learner)
        spent_s, validated = found.seconds, list(found.validation)
        commit = found.commit if commit in found.commit else f"{found.commit}, {commit}"
    began_s = time.monotonic() - spent_s

    def share() -> float:
        """How much of the budget is spent."""
        return max(learner.decisions / (decisions or math.inf), spent_s / (60.0 * (minutes or math.inf)))

    def tell() -> None:
        ratios = ", ".join(f"{row['ratio']:.3f}" for row in validated)
        note = f"{learner.decisions:,} decisions" + (f", cost to economic {ratios}" if ratios else "")
        progress(TRAINING, round(100.0 * min(share(), 1.0)), 100, note, "%")

    validation = Validation(scenarios, settings.validation, progress)
    tell()
    with Collector(scenarios, SEES, settings.plan, seed) as collector, Logs(out, learner.iteration) as logs:
        while share() < 1.0:
            started_s = time.monotonic()
            batch = collector.collect(learner.net(), learner.iteration)
            collected_s = time.monotonic()
            told = learner.update(batch)
            spent_s = time.monotonic() - began_s
            told |= {
                "cents": batch.cents, "departed": batch.departed, "decisions": learner.decisions,
                "collect_s": collected_s - started_s, "learn_s": time.monotonic() - collected_s,
            }  # fmt: skip
            if share() >= 1.0 or learner.iteration % settings.validate_every == 0:
                rows = validation.rows(learner.net(average=True))
                validated = [{**row, "decisions": learner.decisions} for row in rows]
                told |= {f"ratio {row['scenario']}": row["ratio"] for row in validated}
            logs.add(learner.iteration, told)
            save_checkpoint(out, Checkpoint(run, learner.state(), spent_s, validated, commit))
            tell()
    return Checkpoint(run, learner.state(), spent_s, validated, commit)


def export(folder: Path, out: Path, name: str, progress: Progress = lambda *_: None) -> PolicyCard:
    """Write the bundle of a run's average. Raises UserError if the folder holds no run of this trainer."""
    check_name(name)
    check_new(out)
    found = load_checkpoint(folder)
    if found is None or found.run.algorithm != ALGORITHM:
        raise UserError(f"{folder} holds no run to export; name the --out folder of `nodewise train {ALGORITHM}`")
    learner = Learner(Settings(hidden=found.run.settings["hidden"]), found.run.seed)
    learner.restore(found.learner)
    validated = found.validation
    if not validated or validated[0]["decisions"] != learner.decisions:  # a run that was killed
        validation = Validation(found.run.scenarios, found.run.settings["validation"], progress)
        rows = validation.rows(learner.net(average=True))
        validated = [{**row, "decisions": learner.decisions} for row in rows]
    results = {"validation, expected cost to economic": list(validated)}
    return write(
        out, learner.average, learner.seen.sample, name=name, algorithm=ALGORITHM,
        ranges=(learner.seen.low, learner.seen.high), command=found.run.command(learner.decisions),
        commit=found.commit, scenarios=found.run.scenarios, seeds=(found.run.seed,), results=results,
    )  # fmt: skip
