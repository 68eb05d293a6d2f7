"""Scenarios of real traces: what a row becomes, on tiny files in the traces' own schemas."""

import gzip
import json
import math
import os
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from nodewise.core.errors import UserError
from nodewise.core.types import SlaClass
from nodewise.policies import POLICIES
from nodewise_simulator import lab, scenarios
from nodewise_simulator.physics import Change
from nodewise_simulator.run import play
from nodewise_simulator.scenarios.traced import left_out
from nodewise_simulator.traces import decima, google2011, table
from nodewise_simulator.traces import gavel as gavel_files
from nodewise_simulator.world import SimPod

GIB = 2.0**30


def asked(pod: SimPod) -> dict[str, str]:
    """What the manifest requests."""
    found: dict[str, str] = pod.manifest["spec"]["containers"][0]["resources"]["requests"]
    return found


def models(pod: SimPod) -> list[str]:
    """GPU models that a pod's affinity allows; empty: any."""
    affinity = pod.manifest["spec"].get("affinity", {}).get("nodeAffinity", {})
    terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [{}])
    expressions = terms[0].get("matchExpressions", [])
    return next((e["values"] for e in expressions if e["key"] == "nvidia.com/gpu.product"), [])


def told(pod: SimPod, name: str) -> str:
    """An annotation of ours."""
    return str(pod.manifest["metadata"]["annotations"].get(f"nodewise.dev/{name}", ""))


def counts(scenario: str, seed: int, **options: Any) -> dict[str, int]:
    """What is left out, without the reasons that do not occur."""
    return {k: n for k, n in left_out(scenarios.SCENARIOS[scenario], seed, **options).items() if n}


# openb


def openb(folder: Path) -> Path:
    nodes = [f"a{k},32000,131072,2,T4" for k in range(10)] + [f"b{k},64000,262144,0," for k in range(5)]
    lines = ["sn,cpu_milli,memory_mib,gpu,model", *nodes]
    (folder / "openb_node_list_gpu_node.csv").write_text("\n".join(lines) + "\n")
    (folder / "openb_pod_list_default.csv").write_text(
        "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time\n"
        "whole,12000,16384,1,1000,,LS,Running,0,105,5\n"
        "shared,6000,12288,1,460,T4|G2,BE,Running,7,200007,7\n"
        "pending,6000,12288,1,460,,BE,Pending,7,90,\n"
        "huge,6000,12288,8,1000,,BE,Running,7,90,7\n"
    )
    return folder


def test_openb_pods_are_drawn_for_a_tenth_of_every_shape_of_node(tmp_path: Path) -> None:
    options: dict[str, Any] = {"trace": str(openb(tmp_path)), "pods": 40, "warm": 10, "share": 0.2}
    made = scenarios.SCENARIOS["openb-dynamic"](1, **options)
    assert [(n.name, n.gpus_allocatable_milli) for n in made.nodes] == [("a0", 2000), ("a1", 2000), ("b0", 0)]
    assert made.classes == ("shape-00/T4", "shape-01")
    assert (len(made.pods), made.warm) == (50, 10)
    whole, shared = (next(p for p in made.pods if p.request.priority == k) for k in (2000, 0))
    assert asked(whole) == {"cpu": "12000m", "memory": "16384Mi", "nvidia.com/gpu": "1"}
    assert (whole.device_milli, whole.request.gpus_milli, models(whole)) == (0, 1000, [])
    assert (whole.request.sla, whole.true_run_s.tolist()) == (SlaClass.PRODUCTION, [100, 100])
    assert whole.request.deadline_s - whole.request.created_s == 250
    assert asked(shared) == {"cpu": "6000m", "memory": "12288Mi"}
    assert (shared.device_milli, shared.request.gpus_milli, models(shared)) == (460, 460, ["T4", "G2"])
    assert (shared.request.sla, shared.true_run_s.tolist()) == (SlaClass.BEST_EFFORT, [86_400, 86_400])
    assert counts("openb-dynamic", 1, **options) == {
        "pods that never ran": 1,
        "pods that no node is large enough for": 1,
        "pods whose run time was clipped at a day (kept)": 1,
    }


def test_openb_pods_come_twice_as_fast_at_twice_the_load(tmp_path: Path) -> None:
    slow, fast = (
        scenarios.make(f"openb-dynamic@trace={openb(tmp_path)},pods=30,warm=0,share=1,load={load}", 3)
        for load in (0.4, 0.8)
    )
    at = np.array([[p.request.created_s for p in w.pods] for w in (slow, fast)])
    np.testing.assert_allclose(at[0], 2.0 * at[1], atol=0.05)
    # 1 × 100 s or 0.46 × 86,400 s each: 19,922 GPU-s on average, on 20 GPUs
    assert scenarios.make(f"openb-dynamic@trace={tmp_path},pods=4000,warm=0,share=1,load=0.8", 3).pods[
        -1
    ].request.created_s / 4000 == pytest.approx(19_922 / (0.8 * 20), rel=0.05)


# Google 2011

_EVENTS = """select * from (values
    (0, 1, 0, null, 0, 3, 9, 0.5, 0.25, 0), (0, 1, 0, 7, 1, 3, 9, 0.5, 0.25, 0),
    (700000000, 2, 0, null, 0, 0, 0, 0.25, 0.5, 1), (701000000, 2, 0, 8, 1, 0, 0, 0.25, 0.5, 1),
    (705000000, 2, 0, 8, 2, 0, 0, 0.25, 0.5, 1), (705000000, 2, 0, null, 0, 0, 0, 0.25, 0.5, 1),
    (709000000, 2, 0, 8, 1, 0, 0, 0.25, 0.5, 1), (710000000, 3, 4, null, 0, 1, 4, 0.25, 0.5, 1),
    (710000000, 3, 4, 8, 1, 1, 4, 0.25, 0.5, 1), (719000000, 2, 0, 8, 4, 0, 0, 0.25, 0.5, 1),
    (1000000000, 3, 4, 8, 4, 1, 4, 0.25, 0.5, 1)
) t(time_us, job_id, task_index, machine_id, event_type, sched_class, priority, cpu, mem, diff_machine)"""


def parquet(path: Path, query: str) -> Path:
    with duckdb.connect() as db:
        db.execute(f"copy ({query}) to '{path}' (format parquet)")
    return path


def google(folder: Path) -> Path:
    machines = (
        "0,5,0,P,0.5,0.25\n0,6,0,Q,1,1\n0,7,0,,,\n0,8,1,P,0.5,0.25\n650000000,6,2,Q,1,0.5\n700000000,5,1,P,0.5,0.25\n"
        "800000000,5,0,P,0.5,0.25\n2000000000,5,1,P,0.5,0.25\n"
    )
    (folder / "machine_events_part-00000-of-00001.csv.gz").write_bytes(gzip.compress(machines.encode()))
    parquet(folder / "task_events_part.parquet", _EVENTS)
    return folder


def test_google_attempts_come_as_they_were_submitted_and_machines_go_when_they_went(tmp_path: Path) -> None:
    # At most, all three run: 64 of 96 cores, and all of the memory, which is halved then.
    options: dict[str, Any] = {"trace": str(google(tmp_path)), "share": 1.0, "part": "start", "load": 0.5}
    made = scenarios.SCENARIOS["google2011"](1, **options)
    assert [(n.name, n.cpu_allocatable_milli, n.node_class) for n in made.nodes] == [
        ("machine-5", 32_000, "type-0"), ("machine-6", 64_000, "type-2"),
    ]  # fmt: skip
    assert [(c.at_s, c.change, c.node) for c in made.changes] == [
        (700, Change.REMOVE, "machine-5"), (800, Change.ADD, "machine-5"),
    ]  # fmt: skip
    assert made.warm == 1
    # The second was evicted at 705. The engine may evict it again, or not.
    assert [p.request.created_s for p in made.pods] == [0, 700, 710]
    assert made.preempts
    without = scenarios.SCENARIOS["google2011"](1, **options, preempt=0)
    assert ([p.request.created_s for p in without.pods], without.preempts) == ([0, 705, 710], False)
    assert [p.true_run_s.tolist() for p in made.pods] == [[1000, 1000], [10, 10], [290, 290]]
    assert [p.request.priority for p in made.pods] == [9, 0, 4]
    assert [p.request.sla for p in made.pods] == [SlaClass.PRODUCTION, SlaClass.BEST_EFFORT, SlaClass.BATCH]
    assert [asked(p) for p in made.pods] == [{"cpu": "16000m", "memory": "32768Mi"}] + 2 * [
        {"cpu": "8000m", "memory": "65536Mi"}
    ]
    assert [p.request.deadline_s for p in made.pods] == [2500, math.inf, 710 + 5.5 * 290]
    assert told(made.pods[2], "workload") == "job-3"
    assert counts("google2011", 1, **options) == {
        "machine events: added or changed without a capacity": 1,
        "attempts of the sampled jobs that the cell evicted or lost": 1,
        "pods of the window that outlive the file (cut there, kept)": 1,
        "sampled machines that are not there in the window": 1,
        "changes of a sampled machine's capacity": 1,
    }


# Gavel

_SPEEDS = {
    "k80": {"('A', 1)": {"null": 2.0}, "('B', 1)": {"null": 0.0}},
    "p100": {"('A', 1)": {"null": 4.0}, "('B', 1)": {"null": 1.0}},
    "v100": {"('A', 1)": {"null": 8.0}, "('B', 1)": {"null": 3.0}},
}
_JOBS = (
    "vc,job_type,total_steps,arrival_time,scale_factor\nx,A,16,5,1\nx,B,30,9,1\nx,A,8,10,16\nx,C,8,11,1\nx,A,9e9,12,1\n"
)


def gavel(folder: Path) -> Path:
    (folder / "msr_seed0.csv").write_text(_JOBS)
    (folder / "simulation_throughputs.json").write_text(json.dumps(_SPEEDS))
    return folder


def test_gavel_jobs_run_as_long_as_their_steps_take_on_each_type_and_only_where_they_fit(tmp_path: Path) -> None:
    options: dict[str, Any] = {"trace": str(gavel(tmp_path)), "pods": 2, "warm": 0, "servers": 1, "load": 0.5}
    made = scenarios.SCENARIOS["gavel"](1, **options)
    assert [n.name for n in made.nodes] == ["k80-00", "p100-00", "v100-00"]
    assert [n.gpus_allocatable_milli for n in made.nodes] == 3 * [8000]
    assert made.classes == ("k80-server/K80", "p100-server/P100", "v100-server/V100")
    assert tuple(n.node_class for n in made.nodes) == made.classes
    first, second = made.pods
    assert first.true_run_s.tolist() == [8, 4, 2]
    assert second.true_run_s.tolist() == [30, 30, 10]
    assert (models(first), models(second)) == ([], ["P100", "V100"])
    assert (first.request.expected_run_s, second.request.expected_run_s) == (2, 10)
    assert (told(first, "workload"), told(second, "workload")) == ("A x1", "B x1")
    assert asked(first) == {"cpu": "7000m", "memory": "49152Mi", "nvidia.com/gpu": "1"}
    # 14/3 s and 20 s of a GPU on average, at half of 24 GPUs: the 4 s between them become 2.056 s
    assert [p.request.created_s for p in made.pods] == [0, 2.0625]
    assert counts("gavel", 1, **options) == {
        "jobs with more GPUs than a server has": 1,
        "jobs of a kind without a throughput": 1,
        "jobs that take more than 2 days": 1,
    }
    with pytest.raises(UserError, match=r"^scenario gavel needs warm \+ pods of 2 at most: the trace has no more "):
        scenarios.SCENARIOS["gavel"](1, **(options | {"pods": 3}))


# Azure


def azure(folder: Path, lives: bool = True) -> Path:
    (folder / "flav_map.txt").write_text("1,0.75 a\n2,3.5 g\n")
    (folder / "v1.interval_map.txt").write_text("0 0\n300 1\n600 2\n900 2\n")
    (folder / "v1.dev.txt").write_text("0 a,|,g,g,|,\n300 a,|,a,|,\n")
    if lives:
        (folder / "v1.dev.c2100000.txt").write_text("0 U1,|,U2,C2,|,\n300 U1,|,U0,|,\n")
    return folder


def test_azure_machines_hold_their_cores_for_their_lifetime_on_every_host(tmp_path: Path) -> None:
    # 11 cores are in use on average, of the 280 of four hosts: all batches are kept
    options: dict[str, Any] = {"trace": str(azure(tmp_path)), "pods": 4, "warm": 0, "hosts": 4, "load": 10.99 / 280}
    made = scenarios.SCENARIOS["azure-vm"](1, **options)
    assert [n.cpu_allocatable_milli for n in made.nodes] == [72_000, 64_000, 96_000, 48_000]
    assert [p.request.created_s for p in made.pods] == [0, 0, 0, 300]
    assert [p.true_run_s.tolist() for p in made.pods] == [4 * [300], 4 * [750], 4 * [600], 4 * [300]]
    assert asked(made.pods[1]) == {"cpu": "2000m", "memory": "3584Mi"}
    assert [p.request.deadline_s for p in made.pods] == [600, 1050, 900, 900]
    assert [p.request.owner for p in made.pods] == ["Job/batch-0", "Job/batch-1", "Job/batch-1", "Job/batch-2"]
    assert counts("azure-vm", 1, **options) == {
        "VMs without a lifetime, or of none": 1,
        "VMs of the window that outlive the trace (cut there, kept)": 1,
    }
    with pytest.raises(UserError, match=r"needs hosts that the trace can fill: at load 0.1 1 at most$"):
        scenarios.SCENARIOS["azure-vm"](1, **(options | {"load": 0.1}))


def test_azure_without_lifetimes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"part 'dev' has no lifetimes; take part=dev, or add its v1.dev.c2100000.txt$"):
        scenarios.SCENARIOS["azure-vm"](1, trace=str(azure(tmp_path, lives=False)))


# DAG jobs

_STAGE = {
    "fresh_durations": {"10": [4000], "2": [3000]},
    "first_wave": {"10": [4000, 2000], "2": [3000]},
    "rest_wave": {"10": [5000], "2": [1000, 1000]},
}


def test_decima_stages_become_executors_that_wait_for_the_stages_before(tmp_path: Path) -> None:
    profile = {"2g/q1": {"adj": [[0, 1], [0, 0]], "stages": {"0": _STAGE, "1": _STAGE}}}
    (tmp_path / "tpch_profiles.json").write_text(json.dumps(profile))
    made = scenarios.make(f"decima@trace={tmp_path},pods=8,warm=0,nodes=4,width=2", 1)
    assert [n.cpu_allocatable_milli for n in made.nodes] == 4 * [7945]
    # Three tasks a stage: 2 s each of the first wave (the other was fresh), 1 s the later one at two executors
    assert [p.true_run_s[0] for p in made.pods] == [3, 2, 3, 2] * 2
    assert [p.parents for p in made.pods] == [(), (), (0, 1), (0, 1), (), (), (4, 5), (4, 5)]
    assert asked(made.pods[0]) == {"cpu": "1000m", "memory": "1408Mi"}
    assert {told(p, "workload") for p in made.pods} == {"tpch-q1"}
    # Two jobs of 10 core-s on 31.78 cores at 70 %
    assert [p.request.created_s for p in made.pods] == 4 * [0] + 4 * [58 / 64]
    with pytest.raises(UserError, match=r"^scenario decima needs a size that is all or one of 2g$"):
        scenarios.make(f"decima@trace={tmp_path},size=3g", 1)


_TASKS = """select * from (values
    ('M1', 'first', 3.0, 'Terminated', 50, 60, 10.0, 100.0, 0.5),
    ('R2_1', 'first', 1.0, 'Terminated', 60, 80, 20.0, 50.0, 1.0),
    ('M1', 'second', 1.0, 'Terminated', 90, 100, 4.0, 100.0, 0.5),
    ('M1', 'wide', 5000.0, 'Terminated', 95, 100, 4.0, 100.0, 0.5),
    ('M1', 'large', 1.0, 'Terminated', 97, 100, 4.0, 900.0, 0.5),
    ('M1', 'failed', 1.0, 'Failed', 98, 100, 4.0, 100.0, 0.5)
) t(task_name, job_name, instances, status, start_time, end_time, mean_instance_duration, cpu_req_pct, mem_req_norm)"""


def test_alibaba_instances_are_shared_by_pods_that_wait_for_all_of_the_task_before(tmp_path: Path) -> None:
    parquet(tmp_path / "dag_5to7_tasks.parquet", _TASKS)
    options: dict[str, Any] = {"trace": str(tmp_path), "pods": 4, "warm": 0, "nodes": 4, "width": 2, "load": 0.5}
    made = scenarios.SCENARIOS["alibaba-dag"](1, **options)
    assert [p.true_run_s[0] for p in made.pods] == [20, 10, 20, 4]
    assert [p.parents for p in made.pods] == [(), (), (0, 1), ()]
    assert asked(made.pods[0]) == {"cpu": "1000m", "memory": "492Mi"}
    assert asked(made.pods[2]) == {"cpu": "500m", "memory": "983Mi"}
    # 44 core-s on 31.78 cores at 50 %: 2.769 s instead of the 40 s between the two jobs
    assert [p.request.created_s for p in made.pods] == [0, 0, 0, 177 / 64]
    assert counts("alibaba-dag", 1, **options) == {
        "job with a task that did not terminate": 1,
        "jobs with a task of more than 1000 instances": 1,
        "jobs with an instance that no node is large enough for": 1,
    }


def test_a_workload_is_as_fast_on_a_class_in_every_job_of_a_world(tmp_path: Path) -> None:
    profile = {"2g/q1": {"adj": [[0]], "stages": {"0": _STAGE}}, "5g/q1": {"adj": [[0]], "stages": {"0": _STAGE}}}
    (tmp_path / "tpch_profiles.json").write_text(json.dumps(profile))
    one, other = (scenarios.make(f"decima@trace={tmp_path},pods=8,warm=0,nodes=4,width=2", seed) for seed in (1, 2))
    speeds = np.stack([p.true_run_s / p.true_run_s[0] for p in one.pods])
    np.testing.assert_allclose(speeds, speeds[:1].repeat(len(speeds), axis=0))
    assert (np.abs(other.pods[0].true_run_s / other.pods[0].true_run_s[0] - speeds[0])[1:] > 1e-6).all()


# Any of them


_READ = {
    "openb-dynamic": r"openb_node_list_gpu_node\.csv",
    "google2011": r"machine_events_part-00000-of-00001\.csv\[\.gz\] and task_events\*\.parquet",
    "gavel": r"msr_seed\*\.csv\[\.gz\] and simulation_throughputs\.json",
    "azure-vm": r"flav_map\.txt",
    "decima": r"tpch_profiles\.json\[\.gz\]",
    "alibaba-dag": r"dag_5to7_tasks\*\.parquet",
}


@pytest.mark.parametrize("name", _READ)
def test_without_files_it_is_said_what_is_read_and_how_to_name_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NODEWISE_TRACES", raising=False)
    files = _READ[name]
    how = rf"with --trace PATH, or as {name}@trace=PATH$"
    with pytest.raises(UserError, match=rf"^scenario {name} needs a trace: .*{files}.*github\.com.* {how}"):
        scenarios.make(name, 1)
    with pytest.raises(UserError, match=rf"^{tmp_path}.*: there is no "):
        scenarios.make(f"{name}@trace={tmp_path}", 1)
    with pytest.raises(UserError, match=rf"^there is no folder {tmp_path}/none; .*{files}.* {how}"):
        scenarios.make(f"{name}@trace={tmp_path}/none", 1)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"^{tmp_path}/file is a file; --trace wants the folder that holds .*{files}"):
        scenarios.make(f"{name}@trace={tmp_path}/file", 1)
    with pytest.raises(UserError, match=rf"^scenario {name} needs 0 < load < 2"):
        scenarios.make(f"{name}@load=0", 1)


def recipe(name: str) -> str:
    """The program of the README that makes what `name` reads of what is published."""
    text = (Path(table.__file__).parent / "README.md").read_text()
    return text.partition(f"\n`{name}` reads ")[2].partition("```python\n")[2].partition("```")[0]


def test_the_readme_makes_what_is_read_of_the_published_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    published = {
        "gavel": "gavel/scheduler/traces/msr/seed=0", "decima": "decima-sim/spark_env/tpch/2g",
        "machines": "machine_events", "tasks": "task_events",
    }  # fmt: skip
    at = {what: tmp_path / inside for what, inside in published.items()}
    for place in at.values():
        place.mkdir(parents=True)
    (at["gavel"] / "vc1.trace").write_text("LM\tcd x\t-s\t1\t900\t7.000000\t2\nLM\tcd x\t-s\t1\t900\t9.000000\t0\n")
    (tmp_path / "gavel/scheduler/simulation_throughputs.json").write_text('{"k80": {"(\'LM\', 2)": {"null": 3.0}}}')
    waves = {"fresh_durations": {2: [900]}, "first_wave": {2: [900, 400]}, "rest_wave": {2: [300]}}
    np.save(at["decima"] / "adj_mat_1.npy", np.array([[0, 1], [0, 0]]))
    np.save(at["decima"] / "task_duration_1.npy", np.array({0: waves, 1: waves}, dtype=object))
    with gzip.open(at["machines"] / "part-00000-of-00001.csv.gz", "wt") as file:
        file.write("600000000,7,0,abcd,0.5,0.25\n")
    for part, events in enumerate([((600000000, 0), (600000000, 1)), ((700000000, 4),)]):
        with gzip.open(at["tasks"] / f"part-0000{part}-of-00500.csv.gz", "wt") as file:
            file.writelines(f"{us},,100,0,7,{event},ef=,2,9,0.25,0.5,0.0001,0\n" for us, event in events)
    for name in ("gavel", "decima", "google2011"):
        exec(compile(recipe(name), name, "exec"), {})
    jobs = gavel_files.load_jobs(tmp_path / "msr_seed0.csv")
    assert (jobs.cluster.tolist(), jobs.arrival_s.tolist(), jobs.gpus.tolist()) == (["vc1"], [7], [2])
    rates = gavel_files.load_throughputs(tmp_path / "simulation_throughputs.json")
    assert rates.run_s(jobs).tolist() == [[300]]
    (query,) = decima.load(tmp_path / "tpch_profiles.json")
    assert (query.name, [(s.tasks, s.parents) for s in query.stages]) == ("2g/q1", [(3, ()), (3, (0,))])
    machines = google2011.load_machines(tmp_path / "machine_events_part-00000-of-00001.csv.gz")
    assert (machines.time_s.tolist(), machines.cpu_milli.tolist()) == ([600], [32_000])
    attempts = google2011.load_attempts(tmp_path / "task_events.parquet")
    assert (attempts.submit_s.tolist(), attempts.end_s.tolist(), attempts.priority.tolist()) == ([600], [700], [9])
    assert attempts.cpu_milli.tolist() == [16_000]


def test_a_study_is_no_world_and_every_one_is_called_so() -> None:
    assert set(lab.known()) == {*scenarios.SCENARIOS, *scenarios.STUDIES}
    for name in scenarios.STUDIES:
        with pytest.raises(
            UserError, match=rf"^{name} is a study \(nodewise compare plays it\), not a world; .* hetero,"
        ):
            scenarios.make(name, 1)


_SMALL = {
    "openb-dynamic": "pods=100,warm=50",
    "google2011": "pods=100,share=0.003",
    "gavel": "pods=100,warm=20,servers=2",
    "azure-vm": "pods=100,warm=50,hosts=4",
    "decima": "pods=100,warm=20",
    "alibaba-dag": "pods=100,warm=20",
}


@pytest.mark.skipif(
    "NODEWISE_TRACES" not in os.environ,
    reason="set NODEWISE_TRACES to a folder as the README of simulator/nodewise_simulator/traces describes it",
)
@pytest.mark.parametrize("name", _SMALL)
def test_a_window_of_the_real_trace_is_played_to_its_end(name: str) -> None:
    made = scenarios.make(f"{name}@{_SMALL[name]}", 2)
    assert made.pods == tuple(sorted(made.pods, key=lambda p: p.request.created_s)), "by arrival"
    result, _ = play(made, POLICIES["earliest-finish-time"])
    assert result.metrics["unfinished"] == 0
    assert result.metrics["completion_mean"] > 0
