"""Real traces have the sizes that their publishers and our notes tell of them."""

import os
from pathlib import Path

import numpy as np
import pytest

from nodewise_simulator.traces import alibaba_dag, azure_vm, gavel, google2011, openb, philly

pytestmark = pytest.mark.skipif(
    "NODEWISE_TRACES" not in os.environ,
    reason="set NODEWISE_TRACES to a folder as the README of simulator/nodewise_simulator/traces describes it",
)
HOUR = 3600.0


@pytest.fixture
def traces() -> Path:
    return Path(os.environ["NODEWISE_TRACES"])


def test_openb_has_6212_gpus_on_1213_nodes_and_8152_pods(traces: Path) -> None:
    nodes = openb.load_nodes(openb.node_list(traces / "openb"))
    assert (len(nodes.name), nodes.gpus.sum(), nodes.cpu_milli.sum()) == (1213, 6212, 107_018_000)
    pods = openb.load_pods(openb.pod_list(traces / "openb", "default"))
    assert (len(pods.name), np.isnan(pods.run_s).sum(), (pods.gpus == 0).sum()) == (8152, 897, 1088)
    assert np.nanmedian(pods.run_s) == 616


def test_philly_keeps_374_gpus_busy(traces: Path) -> None:
    jobs = philly.load(traces / "philly" / "philly.csv.gz")
    assert len(jobs.gpus) == 82_247
    assert np.quantile(jobs.run_s, 0.9) / HOUR == pytest.approx(3.1, abs=0.05)
    assert (jobs.run_s * jobs.gpus).sum() / jobs.arrival_s[-1] == pytest.approx(374, abs=0.5)


def test_gavel_jobs_run_3_hours_on_a_v100_and_v100_is_4_times_a_k80(traces: Path) -> None:
    jobs = gavel.load_jobs(traces / "gavel" / "msr_seed0.csv.gz")
    speeds = gavel.load_throughputs(traces / "gavel" / "simulation_throughputs.json.gz")
    on_v100 = speeds.run_s(jobs)[:, speeds.gpus.index("v100")]
    assert np.nanmedian(on_v100) / HOUR == pytest.approx(3.1, abs=0.05)
    assert speeds.known(jobs).sum() == 13_716
    one = [gpus == 1 for _, gpus in speeds.kinds]
    gain = speeds.steps_per_s[speeds.gpus.index("v100"), one] / speeds.steps_per_s[speeds.gpus.index("k80"), one]
    assert np.nanmedian(gain) == pytest.approx(4.1, abs=0.05)


def test_azure_vms_live_25_minutes(traces: Path) -> None:
    vms = azure_vm.load(traces / "azure-v1-vm")
    assert (len(vms.arrival_s), vms.running.sum()) == (259_159, 14_317)
    assert np.median(vms.life_s[~vms.running]) == 25 * 60


def test_alibaba_dags_have_two_tasks_in_the_middle_and_72_at_most(traces: Path) -> None:
    tasks = alibaba_dag.load(traces / "alibaba2018-dag" / "random_6600_jobs.parquet")
    sizes = np.diff(tasks.offsets)
    assert (len(tasks.job), np.median(sizes), sizes.max()) == (6535, 2, 72)
    assert tasks.dropped["job with a task that did not terminate"] == 65


def test_google_starts_with_12477_machines(traces: Path) -> None:
    events = google2011.load_machines(traces / "google2011" / "machine_events_part-00000-of-00001.csv.gz")
    first = events.time_s == 0
    assert first.sum() == 12_477
    assert events.cpu_milli[first].sum() / google2011.CPU_MILLI == pytest.approx(6603, abs=1)
