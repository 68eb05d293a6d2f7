"""A training run: the same again from its seed, the same after a kill, or refused in a sentence."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from nodewise.core.card import PolicyCard
from nodewise.core.errors import UserError
from nodewise.policies.bundle import CARD, ENCODER, GOLDEN, HEAD
from nodewise_simulator import scenarios
from nodewise_training import ppo
from nodewise_training.logs import LOG, Logs
from nodewise_training.ppo import export, train
from nodewise_training.runs import CHECKPOINT, Checkpoint, load_checkpoint, save_checkpoint
from nodewise_training.worlds import TRAINABLE, check

from .training_runs import TINY, WORLD, children, waited_for

MORE = 300
"""Decisions: a few iterations."""
ENDLESS = f"""
import sys
from pathlib import Path
from nodewise_training.ppo import Plan, Settings, train
train([{WORLD!r}], 1, Path(sys.argv[1]), decisions=10**9, settings={TINY!r})
"""


def trained(folder: Path, decisions: int, *, seed: int = 1, resume: bool = False) -> Checkpoint:
    return train([WORLD], seed, folder, decisions=decisions, resume=resume, settings=TINY)


def logged(folder: Path) -> list[dict[str, float]]:
    """The lines of the log, without times."""
    lines = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.endswith("_s")} for line in lines]


def assert_same(one: Any, other: Any) -> None:
    """States bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key, held in one.items():
            assert_same(held, other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    else:
        assert one == other


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """The folder of a run that was killed in the middle, and the processes that it had started."""
    folder = tmp_path_factory.mktemp("killed")
    with subprocess.Popen([sys.executable, "-c", ENDLESS, folder]) as process:

        def learns() -> bool:
            assert process.poll() is None
            return (folder / LOG).exists() and len((folder / LOG).read_text().splitlines()) > 2

        try:
            waited_for(learns, 600.0)  # it may have to compile first
            started = children(process.pid)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    return folder, started


@pytest.fixture(scope="module")
def whole(killed: tuple[Path, list[int]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Checkpoint]:
    """The folder and the end of a run that was not killed, some decisions longer."""
    found = load_checkpoint(killed[0])
    assert found is not None
    folder = tmp_path_factory.mktemp("whole") / "new"
    return folder, trained(folder, found.learner["decisions"] + MORE)


@pytest.fixture(scope="module")
def exported(whole: tuple[Path, Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PolicyCard]:
    """The bundle of that run, and its card."""
    folder = tmp_path_factory.mktemp("bundles") / "whole"
    return folder, export(whole[0], folder, "same")


def test_a_killed_run_leaves_no_process_behind(killed: tuple[Path, list[int]]) -> None:
    assert killed[1]
    waited_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in killed[1]))


def test_a_run_that_was_killed_and_resumed_is_the_run_that_was_not(
    killed: tuple[Path, list[int]], whole: tuple[Path, Checkpoint], exported: tuple[Path, PolicyCard], tmp_path: Path
) -> None:
    folder, _ = killed
    before = load_checkpoint(folder)
    assert before is not None
    at = before.learner["iteration"]
    with Logs(folder, at) as logs:  # as if it had been killed between its log and its checkpoint
        logs.add(at + 1, {"cents": -1.0})
    with (folder / LOG).open("a") as log:
        log.write('{"iteration": ')
    end = trained(folder, before.learner["decisions"] + MORE, resume=True)
    assert end.learner["iteration"] > at
    assert_same(end.learner, whole[1].learner)
    assert (end.run, end.validation, end.commit) == (whole[1].run, whole[1].validation, whole[1].commit)
    assert end.seconds > before.seconds
    assert logged(folder) == logged(whole[0])
    assert [line["iteration"] for line in logged(folder)] == [*range(1, end.learner["iteration"] + 1)]
    assert export(folder, tmp_path / "bundle", "same").digest == exported[1].digest


def test_the_same_seed_gives_the_same_bundle_and_another_seed_other_weights(
    whole: tuple[Path, Checkpoint], exported: tuple[Path, PolicyCard], tmp_path: Path
) -> None:
    decisions = whole[1].learner["decisions"]
    again, other = trained(tmp_path / "again", decisions), trained(tmp_path / "other", 1, seed=2)
    assert_same(again.learner, whole[1].learner)
    assert not torch.equal(other.learner["average"]["pool_weight"], again.learner["average"]["pool_weight"])
    card = export(tmp_path / "again", tmp_path / "bundle", "same")
    assert card.digest == exported[1].digest
    assert card.command == f"nodewise train ppo --scenario {WORLD} --seed 1 --decisions {decisions}"
    for file in (CARD, ENCODER, GOLDEN, HEAD):
        assert (tmp_path / "bundle" / file).read_bytes() == (exported[0] / file).read_bytes()


def test_the_curves_are_there_for_tensorboard_each_point_once(
    killed: tuple[Path, list[int]], whole: tuple[Path, Checkpoint]
) -> None:
    for folder in (killed[0], whole[0]):
        events = EventAccumulator(str(folder))
        events.Reload()
        lines = logged(folder)
        assert [(e.step, np.float32(e.value)) for e in events.Scalars("cents")] == [
            (line["iteration"], np.float32(line["cents"])) for line in lines
        ]
        assert set(events.Tags()["scalars"]) >= {"loss", "kl", "entropy", f"ratio {WORLD}"}


# --- refusals --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_trained_is_refused_in_a_sentence(tmp_path: Path) -> None:
    new = tmp_path / "new"
    for nothing in ({}, {"minutes": 0.0}, {"minutes": float("nan")}, {"decisions": 0}):
        with pytest.raises(UserError, match=r"^nothing would end the training; give --minutes or --decisions above 0$"):
            train([WORLD], 1, new, settings=TINY, **nothing)
    with pytest.raises(UserError, match=r"new holds no run to resume; name the folder of one, or leave --resume out"):
        trained(new, 1, resume=True)
    with pytest.raises(UserError, match=r"^there is no scenario 'homo'; choose one of hetero, "):
        train(["homo"], 1, new, decisions=1, settings=TINY)
    with pytest.raises(UserError, match=r"^a world of 419 pods is too short to learn from; give the scenario 420, "):
        train([WORLD.replace("warm=220", "warm=219")], 1, new, decisions=1, settings=TINY)
    with pytest.raises(
        UserError, match=r"^the compiled engine does not model queues at nodes .*scenario S0q.* on: hetero, .*"
    ):
        train(["S0q@pods=400,warm=100"], 1, new, decisions=1, settings=TINY)
    assert not new.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file cannot be made .*; choose another folder with --out$"):
        trained(tmp_path / "file", 1)


def test_what_is_said_to_be_trainable_is_what_the_compiled_engine_models() -> None:
    small = {"random-clusters": "nodes=6,per_node=5,warm=1"}
    for name, made_by in scenarios.SCENARIOS.items():
        text = f"{name}@{small.get(name, 'pods=20,warm=0')}"
        if name in TRAINABLE:
            check(text, 1, 20)
        elif "trace" not in signature(made_by).parameters:  # what reads one is as its file is
            with pytest.raises(UserError, match="compiled engine"):
                check(text, 1, 20)


def test_another_run_is_not_gone_on_with(whole: tuple[Path, Checkpoint]) -> None:
    folder = whole[0]
    before = (folder / CHECKPOINT).read_bytes()
    with pytest.raises(UserError, match=r"holds a run already; add --resume to go on with it, or choose another"):
        trained(folder, 1)
    with pytest.raises(UserError, match=r"has seed 1 and not 2; resume it as it was begun"):
        trained(folder, 1, seed=2, resume=True)
    with pytest.raises(UserError, match=r"has scenarios .* and not \['hetero'\]; resume it as it was begun"):
        train(["hetero"], 1, folder, decisions=1, resume=True, settings=TINY)
    with pytest.raises(UserError, match=r"has settings plan worlds 1 and not \d; resume it as it was begun"):
        train([WORLD], 1, folder, decisions=1, resume=True)
    assert (folder / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize("broken", [b"", b"text", b"half"])
def test_a_checkpoint_that_cannot_be_read_is_told_in_one_line(
    broken: bytes, whole: tuple[Path, Checkpoint], tmp_path: Path
) -> None:
    good = (whole[0] / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(good[: len(good) // 2] if broken == b"half" else broken)
    for use in (lambda: trained(tmp_path, 1, resume=True), lambda: export(tmp_path, tmp_path / "bundle", "p")):
        with pytest.raises(
            UserError, match=r"checkpoint.pt is damaged or not a checkpoint of this version; train into another folder$"
        ):
            use()


def test_a_folder_without_a_run_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no run to export; name the --out folder of `nodewise train ppo`$"):
        export(tmp_path, tmp_path / "bundle", "p")


def test_a_destination_that_cannot_be_is_refused_before_anything_is_computed(
    whole: tuple[Path, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unvalidated = tmp_path / "run"
    unvalidated.mkdir()
    save_checkpoint(unvalidated, replace(whole[1], validation=[]))
    monkeypatch.setattr(ppo, "Validation", pytest.fail)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"run exists already; a bundle is never changed, so choose a new folder$"):
        export(unvalidated, unvalidated, "p")
    with pytest.raises(UserError, match=r"b cannot be written: .*file is no folder that you may write in$"):
        export(unvalidated, tmp_path / "file" / "a" / "b", "p")
    assert not (tmp_path / "file").is_dir()
