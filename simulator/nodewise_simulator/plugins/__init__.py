"""What kube-scheduler's PodTopologySpread and InterPodAffinity make of the pods that have a node already."""

from nodewise_simulator.plugins.neighbours import Neighbours, asks

__all__ = ["Neighbours", "asks"]
