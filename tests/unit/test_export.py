"""What is exported: the same bytes everywhere, nothing of the machine in them, answers at the edges of what was."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from nodewise.policies.bundle import MODELS
from nodewise_training.export import OPSET, export, golden, observed, scores_of
from nodewise_training.nets import Scorer

F32 = NDArray[np.float32]

NAMES = ("delay_cents", "cpu_requested_share", "log_cpu", "room_cents", "log_queued")
"""Of every scope, and mixed: pair, node, pod, pair, cluster."""

ELSEWHERE = f"""
import hashlib
from nodewise_training.export import export
from nodewise_training.nets import Scorer
for model in export(Scorer({NAMES!r}, 16, 3)).values():
    print(hashlib.sha256(model).hexdigest())
"""


@pytest.fixture(scope="module")
def models() -> dict[str, bytes]:
    return export(Scorer(NAMES, 16, 3))


def recorded(count: int = 5) -> list[F32]:
    random = np.random.default_rng(0)
    return [random.random((m + 1, len(NAMES))).astype(np.float32) for m in range(count)]


def test_another_process_exports_the_same_bytes(models: dict[str, bytes], tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", ELSEWHERE], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [hashlib.sha256(models[name]).hexdigest() for name in MODELS]


@pytest.mark.parametrize("name", MODELS)
def test_a_graph_tells_nothing_of_the_machine_and_imports_the_one_operator_set(
    models: dict[str, bytes], name: str
) -> None:
    model = onnx.load_from_string(models[name])
    parts = [model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output]
    assert not any(part.doc_string or part.metadata_props for part in parts)
    for trace in (b"site-packages", b"nodewise_training", b".py", str(Path.home()).encode(), str(Path.cwd()).encode()):
        assert trace not in models[name]
    assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
    assert not model.functions


def test_golden_answers_are_of_one_request_each_and_reach_the_edges_of_what_was_seen() -> None:
    scorer, seen = Scorer(NAMES, 16), recorded()
    made = golden(scorer, seen)
    low, high = observed(seen)
    assert [len(scores) for _, scores in made] == [1, 3, 60, 200, 2, 2]
    for features, scores in made:
        assert np.ptp(features[:, [2, 4]], axis=0).max() == 0.0  # the columns of the pod and of the cluster
        assert (features >= low).all()
        assert (features <= high).all()
        assert scores.dtype == features.dtype == np.float32
        np.testing.assert_array_equal(scores, scores_of(scorer, features))
    reached = np.concatenate([features for features, _ in made])
    np.testing.assert_array_equal([reached.min(axis=0), reached.max(axis=0)], [low, high])
