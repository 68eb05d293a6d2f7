"""Trace loaders: what they read, and the one sentence in which a bad file is told."""

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nodewise.core.errors import UserError
from nodewise_simulator.traces import openb

PODS = """name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time
p0,12000,16384,1,1000,,LS,Running,0,100,5
p1,6000,12288,1,460,T4|G2,BE,Pending,7,90,
p2,1000,512,0,0,,Guaranteed,Succeeded,3,9,4
"""
NODES = """sn,cpu_milli,memory_mib,gpu,model
n1,96000,786432,8,G2
n0,64000,262144,0,
"""


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


Write = Callable[[str, str], Path]


def told(path: Path, load: Callable[[Path], object], rest: str) -> None:
    """The whole sentence: the file, then this."""
    with pytest.raises(UserError) as raised:
        load(path)
    assert re.fullmatch(re.escape(str(path)) + rest, str(raised.value)), str(raised.value)


@pytest.mark.parametrize("name", ["pods.csv", "pods.csv.gz"])
def test_openb_pods_have_sizes_priority_by_qos_and_times_where_they_ran(file: Write, name: str) -> None:
    pods = openb.load_pods(file(name, PODS))
    assert pods.cpu_milli.tolist() == [12000, 6000, 1000]
    assert pods.gpus.tolist() == [1, 1, 0]
    assert pods.gpu_milli.tolist() == [1000, 460, 0]
    assert pods.gpu_spec.tolist() == ["", "T4|G2", ""]
    assert pods.priority.tolist() == [2, 0, 2]
    assert pods.arrival_s.tolist() == [0, 7, 3]
    np.testing.assert_array_equal(pods.run_s, [95, np.nan, 5])
    np.testing.assert_array_equal(pods.wait_s, [5, np.nan, 1])
    assert pods.dropped == {}


def test_openb_nodes_come_in_the_order_of_their_names(file: Write) -> None:
    nodes = openb.load_nodes(file("nodes.csv", NODES))
    assert nodes.name.tolist() == ["n0", "n1"]
    assert nodes.gpus.tolist() == [0, 8]
    assert nodes.model.tolist() == ["", "G2"]


def test_openb_lists_without_qos_and_times_are_read(file: Write) -> None:
    pods = openb.load_pods(file("pods.csv", "name,cpu_milli,memory_mib,num_gpu,gpu_milli\np0,1000,1,2,1000\n"))
    assert pods.priority.tolist() == [1]
    assert np.isnan(pods.run_s).all()


@pytest.mark.parametrize(
    ("bad", "good", "rest"),
    [
        ("gpu_milli,", "", r", row 1: column gpu_milli is missing; a pod list of openb has the columns name, .*"),
        ("6000,12288", "-6,12288", r", row 3: column cpu_milli: -6 is below 0; correct or remove the row"),
        ("6000,12288", "nan,12288", r", row 3: column cpu_milli: NaN is no size; correct or remove the row"),
        ("6000,12288", "inf,12288", r", row 3: column cpu_milli: inf is no size; correct or remove the row"),
        ("6000,12288", "6.5,12288", r", row 3: column cpu_milli: 6\.5 is no whole number; .*"),
        ("6000,12288", "many,12288", r", row 3: column cpu_milli: 'many' is not a number; correct or remove the row"),
        ("6000,12288", ",12288", r", row 3: column cpu_milli: the cell is empty; correct or remove the row"),
        (",460,", ",1460,", r", row 3: column gpu_milli: 1460 is above 1000; correct or remove the row"),
        ("1,460", "2,460", r", row 3: 2 shared GPUs are asked for; only one GPU can be shared"),
        ("p1,", "p0,", r", row 3: name p0 is there twice; give each row a name of its own"),
        ("LS", "HS", r", row 2: QoS 'HS' is not one of LS, .*; correct it"),
        ("0,100,5", "0,4,5", r", row 2: deletion_time is before scheduled_time; correct or remove the row"),
        ("p2,1000,512", "p2", r", row 4: 9 cells where 11 are due; was the line cut\? Fetch the file again"),
    ],
)
def test_a_bad_row_is_told_by_file_row_and_fix(file: Write, bad: str, good: str, rest: str) -> None:
    if bad == "gpu_milli,":
        text = PODS.replace("1,1000,,", "1,,").replace("1,460,", "1,").replace("0,0,,", "0,,")
    else:
        text = PODS
    told(file("pods.csv", text.replace(bad, good, 1)), openb.load_pods, rest)


def test_a_file_of_another_schema_is_told_with_what_it_holds(file: Write) -> None:
    told(
        file("pods.csv", "a,b\n1,2\n"),
        openb.load_pods,
        r", row 1: this is not a pod list of openb: it holds a, b, not name, .*; give a file of that schema",
    )


@pytest.mark.parametrize("text", [PODS.splitlines()[0] + "\n", ""])
def test_a_file_without_rows_is_told(file: Write, text: str) -> None:
    with pytest.raises(UserError, match=r"there are 0 rows|this is not a pod list of openb: it holds nothing"):
        openb.load_pods(file("pods.csv", text))


def test_a_file_cut_short_is_told_with_the_row_where_it_ends(file: Write) -> None:
    rows = "".join(f"p{at},{1000 + at % 777},{at},0,0\n" for at in range(20000))
    whole = file("pods.csv.gz", "name,cpu_milli,memory_mib,num_gpu,gpu_milli\n" + rows)
    whole.write_bytes(whole.read_bytes()[:-5000])
    told(whole, openb.load_pods, r", row [1-9]\d{3,}: the gzip file ends early or is damaged; fetch it again")


def test_what_is_called_gzip_and_is_not_is_told(file: Write) -> None:
    path = file("pods.csv", PODS)
    told(path.rename(path.with_suffix(".csv.gz")), openb.load_pods, r", row 1: the gzip file ends early or is .*")


def test_an_absent_file_is_told(tmp_path: Path) -> None:
    told(tmp_path / "no.csv", openb.load_pods, r": there is no such file; give the path of a pod list of openb")
