"""Nodewise's own kinds: pydantic models, from which the CustomResourceDefinitions are generated (`generate`)."""

from nodewise_operator.resources.base import Condition, ConditionStatus, LabelSelector, Resource
from nodewise_operator.resources.node_profile import NodeProfile
from nodewise_operator.resources.placement_policy import PlacementPolicy
from nodewise_operator.resources.policy_model import PolicyModel
from nodewise_operator.resources.training_run import TrainingRun

KINDS: tuple[type[Resource], ...] = (NodeProfile, PlacementPolicy, PolicyModel, TrainingRun)

__all__ = [
    "KINDS",
    "Condition",
    "ConditionStatus",
    "LabelSelector",
    "NodeProfile",
    "PlacementPolicy",
    "PolicyModel",
    "Resource",
    "TrainingRun",
]
