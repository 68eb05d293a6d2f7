"""The largest stable load: found by bisection, on Poisson arrivals, the same worlds for all policies."""

import json

import pytest

from nodewise.cli.main import main
from nodewise.core.errors import UserError
from nodewise_simulator import lab, scenarios
from nodewise_simulator.run import REFERENCE
from nodewise_simulator.stable import Search, _last, chosen, of_seed, stable_loads

TINY = "random-clusters@nodes=6,per_node=60,warm=5"


@pytest.mark.parametrize("edge", [-1, 0, 1, 7, 59, 60])
def test_bisection_finds_the_last_step_that_is_stable(edge: int) -> None:
    asked: list[int] = []

    def stable(_: str, step: int) -> bool:
        asked.append(step)
        return step <= edge

    assert _last(60, "any", stable) == edge
    assert len(asked) <= 6
    assert all(0 <= step <= 60 for step in asked)


@pytest.mark.parametrize(("step", "steps"), [(0.02, 60), (0.1, 12), (0.35, 3), (0.5, 2)])
def test_the_search_stays_in_its_range_and_reaches_its_end_where_the_step_divides_it(step: float, steps: int) -> None:
    assert Search(TINY, (), step).steps == steps


def test_arrivals_are_poisson_and_traces_long_unless_the_user_says_otherwise() -> None:
    assert Search("random-clusters", ()).at(0.7) == "random-clusters@burst=1,wave=0,per_node=600,load=0.7"
    assert Search(f"{TINY},wave=0.2", ()).at(0.72) == f"{TINY},wave=0.2,burst=1,load=0.72"
    assert Search("hetero", ()).at(0.5) == "hetero@load=0.5"


def test_a_cluster_that_is_far_overloaded_is_not_called_stable() -> None:
    (found,) = of_seed(Search(TINY, ("best-fit",), step=0.2, most=1.8), 1)
    assert 0.4 <= found.metrics["stable_load"] <= 1.2
    assert found.metrics["at_limit"] == 0.0


def test_a_policy_that_holds_pods_is_searched_as_any_other() -> None:
    (found,) = of_seed(Search(TINY, ("economic-defer-cmu",), step=0.2, most=1.8), 1)
    assert 0.4 <= found.metrics["stable_load"] <= 1.2


def test_all_leaves_out_what_only_the_reference_engine_plays_unless_that_is_asked_for() -> None:
    found, left_out = chosen(Search(TINY, ("all",)), 1)
    assert left_out == ("power-of-2", "power-of-5", "learned")
    assert {*found.policies, *left_out} == {*lab.policies_of(TINY)}
    assert chosen(Search(TINY, ("all",), simulator=REFERENCE), 1)[1] == ()
    assert chosen(Search(TINY, ("learned",)), 1)[0].policies == ("learned",)


@pytest.mark.parametrize(
    ("search", "says"),
    [
        (Search("S1", ("economic",)), "scenario 'S1' has no parameter load to search; choose one of hetero, "),
        (Search("random-clusters@", ("economic",)), "a setting is missing in scenario 'random-clusters@'"),
        (Search("nope", ("economic",)), "there is no scenario 'nope'; choose one of hetero, "),
        (Search("random-clusters@load=0.5", ("economic",)), "sets load itself"),
        (Search(TINY, ("all", "economic")), "--policies all stands alone"),
        (Search(TINY, ("economic",), step=0.0), "--step is 0; take 0.001 to 0.5"),
        (Search(TINY, ("economic", "economic")), "names a policy twice"),
        (Search(TINY, ("nope",)), "nope"),
        (Search(TINY, ("best-fit", "bound")), "policy 'bound' places no pods and has no stable load; leave it out"),
        (Search(TINY, ("economic",), least=1.0, most=0.5), "from 1 to 0.5; take 0 < least < most"),
        (Search(TINY, ("economic",), least=0.0), "from 0 to 1.4; take 0 < least"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_a_sentence(search: Search, says: str) -> None:
    with pytest.raises(UserError, match=says):
        stable_loads(search, (1,))


def test_the_command_gives_loads_with_paired_ratios(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["sim", "stable", "--scenario", TINY, "--policies", "random,best-fit", "--seeds", "1-2", "--step", "0.2"]
    monkeypatch.setattr("sys.argv", ["nodewise", *line, "-o", "json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    rows = {(r["policy"], r["metric"]): r for r in json.loads(capsys.readouterr().out)["rows"]}
    assert {metric for _, metric in rows} == {"stable_load", "at_limit", "stable_load_ratio"}
    loads = {name: rows[name, "stable_load"]["mean"] for name in ("random", "best-fit")}
    ratio = rows["best-fit", "stable_load_ratio"]
    assert (ratio["mean"], ratio["unit"], ratio["seeds"]) == (
        pytest.approx(loads["best-fit"] / loads["random"]), "to random", 2,
    )  # fmt: skip


def test_a_trace_seed_draws_other_pods_for_the_same_cluster_and_the_seeds_own_is_its_default() -> None:
    plain, same, other = (scenarios.make(f"{TINY}{given}", 3) for given in ("", ",trace_seed=3", ",trace_seed=4"))
    assert plain.nodes == same.nodes == other.nodes
    own, again, drawn = ([(p.request.created_s, p.true_run_s.tolist()) for p in w.pods] for w in (plain, same, other))
    assert own == again
    assert not {tuple(run_s) for _, run_s in own} & {tuple(run_s) for _, run_s in drawn}
    assert {p.request.workload for p in other.pods} == {p.request.workload for p in plain.pods}
    with pytest.raises(UserError, match="trace_seed >= 0"):
        scenarios.make("random-clusters@trace_seed=-2", 1)
