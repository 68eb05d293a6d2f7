"""The reference engine: plain Python, one event at a time; the oracle of the compiled engine. `README.md` says more."""

from nodewise_simulator.engine.loop import Engine
from nodewise_simulator.engine.outcome import Attempt, Log, NodeObserver, Observer, Outcome, Preemption

__all__ = ["Attempt", "Engine", "Log", "NodeObserver", "Observer", "Outcome", "Preemption"]
