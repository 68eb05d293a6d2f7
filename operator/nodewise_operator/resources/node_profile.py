"""NodeProfile: what is known of one class of alike nodes, in one object per class: small, and slow to change."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from nodewise_operator.resources.base import (
    AGE,
    Column,
    Conditions,
    Count,
    LabelSelector,
    Model,
    Resource,
    Rule,
    Word,
    list_map,
    rules,
)

Ratio = Annotated[float, Field(ge=0.0, le=1e6)]
Price = Annotated[float, Field(ge=0.0, le=1e5)]
Watts = Annotated[float, Field(ge=0.0, le=1e6)]
Interval = Annotated[str, Field(max_length=32)]
Source = Annotated[str, Field(max_length=1024)]

MOST_WORKLOADS = 32
LONGEST_WORKLOAD = 512


class NodeProfileSpec(Model):
    """Which nodes, and what their owner knows better than Nodewise: price and power, if set here, override the rest."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!has(self.idleWatts) || !has(self.peakWatts) || self.idleWatts <= self.peakWatts",
                "idleWatts must not be above peakWatts",
            )
        )
    )

    node_class: Annotated[
        str,
        Field(
            min_length=1,
            max_length=253,
            json_schema_extra=rules(
                Rule("self == oldSelf", "nodeClass cannot be changed: make another NodeProfile for another class")
            ),
        ),
    ]
    """Name of the class: the label nodewise.dev/node-class, else instance type (or architecture) and GPU product …"""
    selector: LabelSelector | None = None
    """The labels that make a node one of this class, for people and for kubectl; the class itself decides."""
    price_usd_per_hour: Price | None = None
    """Price of one node in US dollars an hour; overrides annotations and tables."""
    idle_watts: Watts | None = None
    """Power that an idle node draws, in watts; overrides annotations and tables."""
    peak_watts: Watts | None = None
    """Power that a fully used node draws, in watts; overrides annotations and tables."""


class LearnedSpeed(Model):
    """How fast the class is: run time on the reference class over run time here, so 2 is twice as fast."""

    speed: Ratio
    """The estimate."""
    lower: Ratio
    """Lower end of its 95 % interval."""
    upper: Ratio
    """Upper end of its 95 % interval."""


class WorkloadSpeed(LearnedSpeed):
    """How fast the class runs one workload."""

    workload: Annotated[str, Field(min_length=1, max_length=LONGEST_WORKLOAD)]
    """Root owner and images of its pods, or what nodewise.dev/workload says."""
    samples: Count
    """Finished pods that this rests on, here; older ones count less."""
    reference_samples: Count
    """The same on the reference class."""


class OverallSpeed(LearnedSpeed):
    """How fast the class runs what was seen on it and on the reference class, as a geometric mean over workloads."""

    interval: Interval
    """The interval as text."""
    spread: Ratio | None = None
    """How differently workloads feel the class, as a factor: 1 is alike; at 1.3 two in three are within 30 % of it."""
    workloads: Count
    """How many workloads it rests on."""


class Money(Model):
    """What one node costs."""

    usd_per_hour: Price
    """US dollars an hour, the mean over the nodes of the class."""
    source: Source
    """Where the figure comes from."""


class Power(Model):
    """What one node draws."""

    idle_watts: Watts
    """Watts of an idle node."""
    peak_watts: Watts
    """Watts of a fully used node."""
    source: Source
    """Where the figures come from."""


class Benchmark(Model):
    """One workload of `nodewise profile`, measured on nodes of this class."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """The parametric workload and its size."""
    seconds: Annotated[float, Field(ge=0.0, le=1e7)]
    """Median run time in seconds."""
    lower: Annotated[float, Field(ge=0.0, le=1e7)] | None = None
    """Lower end of the interval of the median, in seconds."""
    upper: Annotated[float, Field(ge=0.0, le=1e7)] | None = None
    """Upper end of the interval of the median, in seconds."""
    runs: Count
    """How many runs it rests on."""
    node: Word | None = None
    """Node of the last run."""
    measured_at: datetime
    """When the last run ended."""


class NodeProfileStatus(Model):
    """What is known of the class."""

    observed_generation: Count | None = None
    """The metadata.generation that this was made from."""
    conditions: Conditions | None = None
    """`Learned`: the overall speed is known. `Priced` and `Powered`: price and power are."""
    nodes: Count | None = None
    """Nodes of the class in the cluster."""
    reference_class: Word | None = None
    """The class that speeds are relative to: the one with most finished pods, unless it was set."""
    overall: OverallSpeed | None = None
    """Speed over all workloads."""
    workloads: (
        Annotated[list[WorkloadSpeed], Field(max_length=MOST_WORKLOADS, json_schema_extra=list_map("workload"))] | None
    ) = None
    """Speed by workload, the most often seen ones."""
    sample_count: Count | None = None
    """Finished pods that all of this rests on; older ones count less."""
    price: Money | None = None
    """What a node costs; absent if nobody knows."""
    power: Power | None = None
    """What a node draws; absent if nobody knows."""
    benchmarks: Annotated[list[Benchmark], Field(max_length=32, json_schema_extra=list_map("name"))] | None = None
    """Results of `nodewise profile`."""
    updated_at: datetime | None = None
    """When any of this was last written."""


class NodeProfile(Resource):
    """What Nodewise knows of one class of nodes: learned speed, price, power. It makes one for each class it sees."""

    plural: ClassVar[str] = "nodeprofiles"
    short_names: ClassVar[tuple[str, ...]] = ("nprof",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("Nodes", ".status.nodes", "integer"),
        Column("Speed", ".status.overall.speed", "number", says="relative to the reference class, which has 1"),
        Column("Interval", ".status.overall.interval", says="95 % interval of the speed"),
        Column("Samples", ".status.sampleCount", "integer", says="finished pods that the speed rests on"),
        Column("USD/h", ".status.price.usdPerHour", "number"),
        Column("Watts", ".status.power.peakWatts", "number", says="of a fully used node"),
        Column(
            "Spread", ".status.overall.spread", "number", wide=True, says="how differently workloads feel the class"
        ),
        Column("Class", ".spec.nodeClass", wide=True),
        Column("Reference", ".status.referenceClass", wide=True),
        Column("Idle-watts", ".status.power.idleWatts", "number", wide=True),
        Column("Updated", ".status.updatedAt", "date", wide=True),
        AGE,
    )

    api_version: Literal["nodewise.dev/v1alpha1"] = "nodewise.dev/v1alpha1"
    kind: Literal["NodeProfile"] = "NodeProfile"
    spec: NodeProfileSpec
    status: NodeProfileStatus | None = None
