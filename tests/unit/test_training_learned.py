"""What a training run learns from, what it learns, and what it says on the command line."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nodewise.cli.train import BATCH
from nodewise.core.decide import PolicyRefusalError
from nodewise.core.types import ClusterView, PodRequest, Policy, Rows, Scores
from nodewise.policies import DEFAULT
from nodewise.policies.checks import apart
from nodewise.policies.learned import load
from nodewise_simulator import scenarios
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import flatten
from nodewise_simulator.compiled.run import Record, State, play_sampled
from nodewise_simulator.run import play
from nodewise_training import ppo
from nodewise_training.export import scores_of
from nodewise_training.ppo import ALGORITHM, SEES, Learner, export, train
from nodewise_training.rollout import FIRST_SEED, Batch, Collector, Plan
from nodewise_training.runs import CHECKPOINT, Checkpoint, Run, save_checkpoint

from .training_runs import TINY, WORLD, children, waited_for

COMMAND = f"""
import sys
from functools import partial
from nodewise.cli.main import main
from nodewise_training import ppo
from nodewise_training.ppo import Plan, Settings
ppo.train = partial(ppo.train, settings={replace(TINY, validation=tuple(range(901, 925)))!r})
sys.argv = ["nodewise", "train", "--scenario", {WORLD!r}, "--minutes", "999", "--out", sys.argv[1]]
main()
"""


# --- what is learned from --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("worlds", [1, 2, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_each_scenario_is_learned_from_in_every_mix_and_never_twice_in_the_same_world(worlds: int, seed: int) -> None:
    scenarios_of = ["hetero@load=0.7", "hetero@load=0.85"]
    collector = Collector(scenarios_of, SEES, Plan(worlds=worlds), seed)
    made = [told for iteration in range(16 // worlds) for told in collector._worlds(iteration)]
    assert len(set(made)) == 16
    for scenario in scenarios_of:
        rotated = [number % 4 for text, number in made if text == scenario]  # as `hetero` rotates its mixes
        assert sorted(rotated) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert min(number for _, number in made) >= FIRST_SEED


# --- what is learned -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Of the untrained policy."""
    with Collector([WORLD], SEES, TINY.plan, 1) as collector:
        return collector.collect(Learner(TINY, 1).net(), 0)


def test_what_cost_less_becomes_likelier(batch: Batch) -> None:
    learner = Learner(replace(TINY, epochs=4, average=0.0), 1)
    assert len(batch.index) > 80
    assert np.abs(batch.advantage[batch.index]).max() <= TINY.plan.clip
    learner.update(batch)
    gained = []
    for k in batch.index:
        _, m, chosen = batch.record.choice[k]
        seen = np.empty((m, len(SEES)), np.float32)
        for part, values in (("node", batch.record.node[k, :m]), ("pair", batch.record.pair[k, :m])):
            seen[:, learner.scorer.places[part]] = values
        seen[:, learner.scorer.places["request"]] = batch.record.request[k]
        logits = TINY.plan.sharpness * scores_of(learner.average, seen).astype(float)
        gained.append(
            logits[chosen] - np.log(np.exp(logits - logits.max()).sum()) - logits.max() - batch.record.logp[k]
        )
        assert (seen >= learner.seen.low).all()
        assert (seen <= learner.seen.high).all()
    assert np.mean(np.array(gained) * batch.advantage[batch.index]) > 0.0
    assert np.corrcoef(gained, batch.advantage[batch.index])[0, 1] > 0.1


class Both:
    """Places as `economic`, and holds each score of a learned policy to its."""

    name, digest = "both", "test"

    def __init__(self, learned: Policy) -> None:
        self.learned, self.asked, self.refused = learned, 0, 0

    def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:
        by_rule = DEFAULT.score(pod, view, rows)
        self.asked += 1
        try:
            scores = self.learned.score(pod, view, rows)
        except PolicyRefusalError:
            self.refused += 1
        else:
            assert apart(scores, by_rule) < 1e-5
            # The same node, but for what rounding cannot tell apart.
            assert by_rule[np.argmax(scores)] >= by_rule.max() - 1e-5 * max(1.0, np.abs(by_rule).max())
        return by_rule


def test_an_untrained_policy_that_is_exported_places_every_pod_as_economic_does(tmp_path: Path) -> None:
    learner, made = Learner(TINY, 1), scenarios.make(WORLD, 5)
    flat, record = flatten(made), Record.room(len(made.pods), len(made.nodes), SEES)
    state, uniforms = State.start(flat), np.full(len(made.pods), 0.5)
    play_sampled(flat, state, learner.net(), 1e6, uniforms, record, 0, len(made.pods) + 1)  # its best, and recorded
    rows = np.arange(state.number[kn.RECORDED])
    learner.seen.add(record, rows)
    learner.average.set_scale(*learner.seen.scale(record, rows))
    run = Run(ALGORITHM, (WORLD,), 1, asdict(TINY))
    save_checkpoint(tmp_path, Checkpoint(run, learner.state(), 0.0, [], "none"))
    card = export(tmp_path, tmp_path / "bundle", "untrained")
    assert (card.name, card.commit, card.seeds) == ("untrained", "none", (1,))
    both = Both(load(tmp_path / "bundle"))
    play(made, both)
    assert both.asked > 400
    assert both.refused < 0.05 * both.asked


# --- the command line ------------------------------------------------------------------------------------------------


def test_a_policy_is_trained_exported_and_checked_from_the_command_line(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ppo, "train", partial(train, settings=TINY))  # only smaller
    folder, bundle = str(tmp_path / "run"), str(tmp_path / "bundle")
    status, said, told = run("train", "--scenario", WORLD, "--decisions", "200", "--out", folder)
    assert status == 0
    assert f"nodewise train ppo --scenario {WORLD} --seed 1 --decisions 2" in said
    assert f"Next: nodewise export {folder} --out BUNDLE" in said
    summary = " ".join(said.split())
    assert re.search(r"; chose another node than economic in \d+ % .*; economic decided \d+\.\d % \(outside", summary)
    preparing, begun, *_, ended = told.splitlines()
    assert preparing == "preparing the worlds of validation: 1 world to do"
    assert begun == "training: 0 decisions (0% done)"
    assert re.fullmatch(r"training: 2\d\d decisions, cost to economic \d\.\d{3} \(100% done\)", ended)
    status, said, told = run("train", "--scenario", WORLD, "--decisions", "1", "--out", folder)
    assert (status, said) == (2, "")
    assert "add --resume to go on with it" in told
    status, said, _ = run("train", "--scenario", WORLD, "--decisions", "1", "--out", folder, "--resume", "-o", "json")
    assert status == 0
    assert json.loads(said)["decisions"] >= 200
    assert [row["scenario"] for row in json.loads(said)["rows"]] == [WORLD]
    status, said, _ = run("export", folder, "--out", bundle, "--name", "mine", "-o", "json")
    assert (status, json.loads(said)["bundle"]) == (0, bundle)
    status, shown, _ = run("bundle", "verify", bundle)
    assert status == 0
    assert json.loads(said)["digest"][:12] in shown
    status, _, told = run("train", "sarsa", "--out", folder)
    assert (status, told) == (2, "nodewise: there is no algorithm 'sarsa'; choose one of ppo\n")


def test_the_help_tells_the_size_of_a_batch() -> None:
    plan = Plan()
    assert plan.worlds * plan.segments * plan.rollouts * plan.decisions == BATCH


@pytest.mark.parametrize("learns", [False, True])
def test_ctrl_c_ends_training_and_says_what_was_kept(learns: bool, tmp_path: Path) -> None:
    out, said = tmp_path / "run", tmp_path / "said"
    with said.open("w") as stderr:
        process = subprocess.Popen([sys.executable, "-c", COMMAND, out], stderr=stderr, start_new_session=True)

    def reached() -> bool:
        assert process.poll() is None
        return (out / CHECKPOINT).exists() if learns else "preparing" in said.read_text()

    try:
        waited_for(reached)
        started = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    told = [
        line for line in said.read_text().splitlines() if not line.startswith(("compiling", "preparing", "training:"))
    ]
    kept = [f"checkpoint kept in {out}; go on with --resume"]
    assert told == ["stopping …", *(kept if learns else [])]
    waited_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))
