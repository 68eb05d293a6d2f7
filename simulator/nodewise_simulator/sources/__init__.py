"""Scenarios of the source systems that are no Kubernetes world. A new one is a file here and a name in `STUDIES`."""

from __future__ import annotations

from nodewise_simulator.sources import fractions, pull, queueing, replay, side, tick_queue, ticks
from nodewise_simulator.studies import Study

STUDIES: tuple[Study, ...] = (
    *replay.STUDIES, queueing.STUDY, *pull.STUDIES, ticks.STUDY, tick_queue.STUDY, *fractions.STUDIES, *side.STUDIES,
)  # fmt: skip
