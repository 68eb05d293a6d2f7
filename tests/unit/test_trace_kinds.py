"""The other traces: each loader on a sample made here, and what each refuses on top of bad cells."""

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from nodewise.core.errors import UserError
from nodewise_simulator.traces import alibaba_dag, azure_vm, decima, gavel, google2011, philly


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def parquet(path: Path, query: str) -> Path:
    with duckdb.connect() as db:
        db.execute(f"copy ({query}) to '{path}' (format parquet)")
    return path


# Microsoft Philly


def test_philly_jobs_are_sorted_by_arrival(tmp_path: Path) -> None:
    rows = "2017-10-09 07:01:55,66.0,1,66.0,11cb48\n2017-10-09 06:13:03,2951.0,8,23608.0,6214e9\n"
    jobs = philly.load(write(tmp_path / "philly.csv", "timestamp,duration,num_gpus,gpu_time,cluster\n" + rows + "\n"))
    assert jobs.arrival_s.tolist() == [0, 48 * 60 + 52]
    assert jobs.gpus.tolist() == [8, 1]
    assert jobs.run_s.tolist() == [2951, 66]


def test_philly_jobs_that_never_ran_are_counted(tmp_path: Path) -> None:
    head = "timestamp,duration,num_gpus,gpu_time,cluster\n"
    path = write(tmp_path / "philly.csv", head + "2017-10-09 07:00:00,0,1,0,a\n2017-10-09 07:00:09,5,1,5,a\n")
    assert philly.load(path).dropped == {"ran for 0 s": 1}
    with pytest.raises(UserError, match=r"row 2: timestamp 'noon' is no time; write it as"):
        philly.load(write(path, head + "noon,5,1,5,a\n"))


# Gavel

_TABLE = {
    "k80": {"('A', 1)": {"null": 2.0, "('B', 1)": [1.0, 0.5]}, "('B', 1)": {"null": 0.0, "('A', 1)": [0.5, 1.0]}},
    "v100": {"('A', 1)": {"null": 8.0}, "('B', 1)": {"null": 3.0}},
}
_JOBS = "vc,job_type,total_steps,arrival_time,scale_factor\nx,A,16,5,1\nx,B,30,9,1\ny,A,8,1,1\ny,B,6,7,4\n"


def test_gavel_jobs_are_merged_and_run_as_long_as_their_steps_take(tmp_path: Path) -> None:
    jobs = gavel.load_jobs(write(tmp_path / "jobs.csv", _JOBS))
    assert jobs.arrival_s.tolist() == [1, 5, 7, 9]
    speeds = gavel.load_throughputs(write(tmp_path / "speeds.json", json.dumps(_TABLE)))
    assert speeds.gpus == ("k80", "v100")
    nan = np.nan
    np.testing.assert_array_equal(speeds.run_s(jobs), [[4, 1], [8, 2], [nan, nan], [nan, 10]])
    assert speeds.known(jobs).tolist() == [True, True, False, True]
    np.testing.assert_array_equal(speeds.shared_steps_per_s[0], [[nan, 1.0], [0.5, nan]])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"k80": {"A": {"null": 1}}}, "'A' is no kind of job"),
        ({"k80": {"('A', 1)": {"null": -1}}}, r"k80, \('A', 1\): -1 is no rate"),
        ({"k80": {"('A', 1)": {}}}, "the rate alone .'null'. is missing"),
        ([], "this is not a throughput table of Gavel"),
    ],
)
def test_gavel_tables_of_another_form_are_refused(tmp_path: Path, change: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        gavel.load_throughputs(write(tmp_path / "speeds.json", json.dumps(change)))


def test_gavel_jobs_out_of_order_within_a_cluster_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"row 3: arrival_time 9 is before the job above it of vc x; sort by"):
        gavel.load_jobs(write(tmp_path / "jobs.csv", _JOBS.replace("x,A,16,5", "x,A,16,50")))


# Azure


def azure(folder: Path, flavours: str, lives: str | None) -> Path:
    write(folder / "flav_map.txt", "1,0.75 a\n2,3.5 g\n")
    write(folder / "v1.interval_map.txt", "0 0\n300 1\n600 2\n900 2\n")
    write(folder / "v1.dev.txt", flavours)
    if lives is not None:
        write(folder / "v1.dev.c2100000.txt", lives)
    return folder


def test_azure_machines_come_in_batches_with_lifetimes_of_their_bins(tmp_path: Path) -> None:
    vms = azure_vm.load(azure(tmp_path, "0 a,|,g,g,|,\n300 a,|,\n", "0 U1,|,U2,C2,|,\n300 U0,|,\n"))
    assert vms.arrival_s.tolist() == [0, 0, 0, 300]
    assert vms.batch.tolist() == [0, 1, 1, 2]
    assert vms.cpu_milli.tolist() == [1000, 2000, 2000, 1000]
    assert vms.memory_mib.tolist() == [768, 3584, 3584, 768]
    assert vms.life_s.tolist() == [300, 750, 600, 0], "one that was running is at least as old as its bin"
    assert vms.running.tolist() == [False, False, True, False]


def test_azure_without_lifetimes_has_none(tmp_path: Path) -> None:
    assert np.isnan(azure_vm.load(azure(tmp_path, "0 a,|,\n", None)).life_s).all()


@pytest.mark.parametrize(
    ("flavours", "lives", "told"),
    [
        ("300 a,|,\n0 a,|,\n", None, "v1.dev.txt, row 2: time 0 comes after 300; sort the file by time"),
        ("0 z,|,\n", None, "row 1: flavour 'z' is not in flav_map.txt"),
        ("-1 a,|,\n", None, "row 1: '-1 a,.,' does not start with a time"),
        ("0 |,\n", None, "there are 0 VMs"),
        ("0 a,|,\n", "0 U1,U1,|,\n", "row 1: 2 lifetimes for 1 VMs; give the two files of the same trace"),
        ("0 a,|,\n", "0 U9,|,\n", "row 1: 'U9' is no lifetime"),
        ("0 a,|,\n300 a,|,\n", "0 U1,|,\n", "row 1: it ends after 1 of 2 lines; fetch it again"),
    ],
)
def test_azure_files_that_do_not_match_are_refused(tmp_path: Path, flavours: str, lives: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        azure_vm.load(azure(tmp_path, flavours, lives))


# Decima

_STAGE = {
    "fresh_durations": {"10": [4000], "2": [3000]},
    "first_wave": {"10": [4000, 2000], "2": [3000]},
    "rest_wave": {"10": [1000], "2": [1000, 1000]},
}


def test_decima_stages_have_the_tasks_of_their_first_entry_and_waves_without_fresh_ones(tmp_path: Path) -> None:
    told = {"2g/q1": {"adj": [[0, 1], [0, 0]], "stages": {"0": _STAGE, "1": _STAGE}}}
    (query,) = decima.load(write(tmp_path / "tpch.json", json.dumps(told)))
    first, second = query.stages
    assert (first.parents, second.parents) == ((), (0,))
    assert first.tasks == 3, "2 and 1 with 10 executors, which come first in the file"
    assert {executors: found.tolist() for executors, found in first.first_s.items()} == {2: [], 10: [2.0]}
    assert first.fresh_s[2].tolist() == [3.0]


@pytest.mark.parametrize(
    ("adj", "stage", "told"),
    [
        ([[0, 1]], _STAGE, "q: adj is not the 2 x 2 matrix"),
        ([[0, 1], [1, 0]], _STAGE, "q: stages wait for one another in a circle; correct adj"),
        ([[0, 0], [0, 0]], {"first_wave": {}}, "q, stage 0: fresh_durations is missing"),
        ([[0, 0], [0, 0]], {**_STAGE, "rest_wave": {"2": [-1]}}, "rest_wave, 2 executors: a duration is negative"),
    ],
)
def test_decima_profiles_that_are_no_dag_are_refused(tmp_path: Path, adj: Any, stage: Any, told: str) -> None:
    profile = {"q": {"adj": adj, "stages": {"0": stage, "1": stage}}}
    path = write(tmp_path / "tpch.json", json.dumps(profile))
    with pytest.raises(UserError, match=told):
        decima.load(path)


# Alibaba 2018

_TASKS = """select * from (values
    ('M1', 'late', 3.0, 'Terminated', 50, 60, 2.5, 100.0, 0.5),
    ('R3_1_2', 'early', 1.0, 'Terminated', 20, 30, 10.0, 50.0, 1.0),
    ('M1', 'early', 2.0, 'Terminated', 10, 20, 10.0, 50.0, 1.0),
    ('M2', 'early', 2.0, 'Terminated', 10, 20, 10.0, 50.0, 1.0),
    ('task_x', 'early', 1.0, 'Terminated', 12, 20, 10.0, 50.0, 1.0),
    ('R4_9', 'early', 1.0, 'Terminated', 12, 20, 10.0, 50.0, 1.0),
    ('M1', 'dead', 1.0, 'Failed', 1, 2, 1.0, 50.0, 1.0),
    ('R2_1', 'dead', 1.0, 'Terminated', 1, 2, 1.0, 50.0, 1.0),
    ('M1', 'unasked', 1.0, 'Terminated', 1, 2, 1.0, null, 1.0),
    ('M1_2', 'round', 1.0, 'Terminated', 1, 2, 1.0, 50.0, 1.0),
    ('M2_1', 'round', 1.0, 'Terminated', 1, 2, 1.0, 50.0, 1.0)
) t(task_name, job_name, instances, status, start_time, end_time, mean_instance_duration, cpu_req_pct, mem_req_norm)"""


def test_alibaba_tasks_wait_for_the_numbers_in_their_names(tmp_path: Path) -> None:
    tasks = alibaba_dag.load(parquet(tmp_path / "dag.parquet", _TASKS))
    assert tasks.job.tolist() == ["early", "late"]
    assert tasks.arrival_s.tolist() == [10, 50]
    assert tasks.offsets.tolist() == [0, 5, 6]
    assert tasks.parents == ((1, 2), (), (), (), (), ())
    assert tasks.cpu_milli.tolist() == [500] * 5 + [1000]
    assert tasks.instances.tolist() == [1, 2, 2, 1, 1, 3]
    assert {reason: count for reason, count in tasks.dropped.items() if count} == {
        "job with a task that did not terminate": 1,
        "job with a task without instances or a request": 1,
        "job whose tasks wait in a circle": 1,
        "waiting for a task that is not there": 1,
    }


# Google 2011

_EVENTS = """select * from (values
    (0, 1, 0, null, 0, 0, 9, 0.5, 0.25, 0), (0, 1, 0, 7, 1, 0, 9, 0.5, 0.25, 0),
    (700000000, 2, 0, null, 0, 3, 0, 0.25, 0.5, 1), (701000000, 2, 0, 8, 1, 3, 0, 0.25, 0.5, 1),
    (705000000, 2, 0, 8, 2, 3, 0, 0.25, 0.5, 1), (705000000, 2, 0, null, 0, 3, 0, 0.25, 0.5, 1),
    (709000000, 2, 0, 8, 1, 3, 0, 0.25, 0.5, 1), (710000000, 2, 1, null, 0, 3, 0, 0.25, 0.5, 1),
    (711000000, 3, 0, null, 5, 1, 2, 0.25, 0.5, 1), (719000000, 2, 0, 8, 4, 3, 0, 0.25, 0.5, 1),
    (720000000, 4, 0, 8, 1, 1, 2, null, null, null)
) t(time_us, job_id, task_index, machine_id, event_type, sched_class, priority, cpu, mem, diff_machine)"""


def test_google_attempts_run_from_a_schedule_to_the_next_end(tmp_path: Path) -> None:
    runs = google2011.load_attempts(parquet(tmp_path / "events.parquet", _EVENTS))
    assert runs.job.tolist() == [1, 2, 2]
    assert runs.submit_s.tolist() == [0, 700, 705]
    assert runs.first_submit_s.tolist() == [0, 700, 700]
    assert runs.schedule_s.tolist() == [0, 701, 709]
    np.testing.assert_array_equal(runs.end_s, [np.nan, 705, 719])
    assert runs.ended.tolist() == [-1, google2011.EVICT, google2011.FINISH]
    assert runs.cpu_milli.tolist() == [32000, 16000, 16000]
    assert runs.memory_mib.tolist() == [65536, 131072, 131072]
    assert runs.different_machine.tolist() == [False, True, True]
    assert runs.dropped == {
        "scheduled without a request": 1,
        "scheduled twice without an end": 0,
        "submitted and not scheduled in the file": 1,
        "ended without a schedule in the file": 1,
    }


def test_google_machines_have_a_type_for_each_platform_and_size(tmp_path: Path) -> None:
    rows = "0,5,0,P,0.5,0.25\n0,6,0,Q,0.5,0.25\n7,7,0,P,0.5,0.25\n8,9,0,,,\n9,5,1,P,0.5,0.25\n"
    machines = google2011.load_machines(write(tmp_path / "machines.csv", rows))
    assert machines.machine.tolist() == [5, 6, 7, 5]
    assert machines.node_type.tolist() == [0, 1, 0, 0]
    assert machines.cpu_milli.tolist() == [32000] * 4
    assert machines.dropped == {"added or changed without a capacity": 1}
    with pytest.raises(UserError, match="row 2: time_us 3 comes after 9; sort the file by time_us, smallest first"):
        google2011.load_machines(write(tmp_path / "machines.csv", "9,5,0,P,0.5,0.25\n3,6,0,P,0.5,0.25\n"))


# Parquet


@pytest.mark.parametrize(
    ("query", "told"),
    [
        (_EVENTS.replace("(0, 1, 0, null", "(900, 1, 0, null", 1), "row 2: time_us 0 comes after 900; sort the file"),
        (_EVENTS.replace("0.5, 0.25, 0)", "-0.5, 0.25, 0)", 1), "row 1: column cpu: -0.5 is below 0"),
        (_EVENTS.replace("0.5, 0.25, 0)", "0.5, 'NaN'::float, 0)", 1), None),
        (_EVENTS.replace("(0, 1, 0, null", "(null, 1, 0, null", 1), "row 1: column time_us: the cell is empty"),
        (
            _EVENTS.replace("priority", "importance"),
            "column priority is missing; a task_events file of Google 2011 has",
        ),
        ("select 1 a, 2 b", "this is not a task_events file of Google 2011: it holds a, b, not time_us"),
        (_EVENTS + " limit 0", "there are 0 rows; give a task_events file of Google 2011 with at least one"),
        (_EVENTS.replace("select *", "select * replace ('x' as cpu)"), "column cpu holds object, not numbers"),
    ],
)
def test_a_bad_parquet_file_is_told_by_file_row_and_fix(tmp_path: Path, query: str, told: str | None) -> None:
    path = parquet(tmp_path / "events.parquet", query)
    if told is None:
        assert google2011.load_attempts(path).dropped["scheduled without a request"] == 1, "an empty request may be NaN"
        return
    with pytest.raises(UserError, match=told) as raised:
        google2011.load_attempts(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_parquet_cut_short_is_told(tmp_path: Path) -> None:
    path = parquet(tmp_path / "events.parquet", _EVENTS)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"this is no whole parquet file .*; fetch it again") as raised:
        google2011.load_attempts(path)
    assert "\n" not in str(raised.value)
