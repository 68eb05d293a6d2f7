"""PolicyModel: one learned policy, for ever the same; a new version is a new object, to go back is to point back."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from nodewise_operator.resources.base import (
    AGE,
    AS_SET,
    Column,
    Condition,
    Conditions,
    Count,
    Model,
    Resource,
    Rule,
    Sha256,
    condition_column,
    rules,
    whole_second,
)

Algorithm = Literal["PPO", "DQN", "MARL", "Hybrid", "Evolved"]


def pending(kind: str, reason: str, message: str, status: Literal["Unknown", "False"] = "Unknown") -> Condition:
    """A condition that an object is born with, as Gateway API's objects are: silence would look like success."""
    return Condition(type=kind, status=status, reason=reason, message=message, last_transition_time=whole_second(0))


class PolicyModelSpec(Model):
    """Where the bundle is and what it must be. Immutable."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule("self == oldSelf", "a PolicyModel cannot be changed: make a new one, and point to it"),
            Rule(
                "!self.source.startsWith('oci://') || self.source.contains('@sha256:')",
                "an oci:// source must name its digest (…@sha256:…): a tag can be moved",
            ),
        )
    )

    source: Annotated[
        str, Field(min_length=1, max_length=1024, pattern=r"^(builtin|file|https|s3|gs|az|oci)://[^\s]+$")
    ]
    """Where the bundle is: builtin://NAME, file://, https://, s3://, gs://, az:// or oci://…@sha256:…"""
    sha256: Sha256
    """Digest of the bundle, as `nodewise bundle` prints it: of its card, which holds the digests of its files."""
    signature: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9+/]{86}==$")] | None = None
    """Ed25519 signature of the digest, in base64."""
    algorithm: Algorithm
    """How it was learned."""
    columns: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=63)]], Field(max_length=128, json_schema_extra=AS_SET)
        ]
        | None
    ) = None
    """What it looks at, by name; an extender that lacks one refuses the bundle."""
    min_extender_version: (
        Annotated[str, Field(max_length=32, pattern=r"^[0-9]+\.[0-9]+\.[0-9]+([-+.a-zA-Z0-9]*)$")] | None
    ) = None
    """The oldest Nodewise that can serve it."""
    trained_by: Annotated[str, Field(max_length=317)] | None = None
    """The TrainingRun that made it, as NAMESPACE/NAME."""


class PolicyModelStatus(Model):
    """Whether it can be trusted, and where it is served."""

    observed_generation: Count | None = None
    """The metadata.generation that this was made from."""
    conditions: Conditions | None = None
    """`Verified`: the files have the digest, and the signature if one is asked for. `ParityPassed`: it gives the scores
    that its card says. `Loaded`: extenders hold it."""
    loaded_by: Annotated[str, Field(max_length=32)] | None = None
    """How many of the extenders hold it, such as 2/2."""
    verified_at: datetime | None = None
    """When its files were last verified."""


_WAITS = "no extender has looked at this bundle yet"


class PolicyModel(Resource):
    """One learned policy: where its bundle is, its digest, and whether it was verified and is served."""

    plural: ClassVar[str] = "policymodels"
    short_names: ClassVar[tuple[str, ...]] = ("pmod",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("Algorithm", ".spec.algorithm"),
        condition_column("Verified"),
        condition_column("ParityPassed"),
        condition_column("Loaded"),
        Column("Loaded-by", ".status.loadedBy", wide=True),
        Column("Source", ".spec.source", wide=True),
        Column("Sha256", ".spec.sha256", wide=True),
        AGE,
    )

    api_version: Literal["nodewise.dev/v1alpha1"] = "nodewise.dev/v1alpha1"
    kind: Literal["PolicyModel"] = "PolicyModel"
    spec: PolicyModelSpec
    status: PolicyModelStatus | None = PolicyModelStatus(
        conditions=[pending(kind, "Pending", _WAITS) for kind in ("Verified", "ParityPassed", "Loaded")]
    )
