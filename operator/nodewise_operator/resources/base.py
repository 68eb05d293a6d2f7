"""What all kinds share: naming, bounds, conditions, CEL rules, printer columns.

Sources: "Kubernetes API conventions" (sig-architecture), `metav1.Condition` and `metav1.LabelSelector`
(apimachinery/pkg/apis/meta/v1/types.go), and their validation.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

GROUP = "nodewise.dev"
VERSION = "v1alpha1"

_LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
_LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"

Name = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
"""Of a Kubernetes object."""
Namespace = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
LabelKey = Annotated[str, Field(min_length=1, max_length=317, pattern=_LABEL_KEY)]
LabelValue = Annotated[str, Field(max_length=63, pattern=_LABEL_VALUE)]
Labels = Annotated[dict[str, LabelValue], Field(max_length=32)]
Word = Annotated[str, Field(max_length=253)]
Sentence = Annotated[str, Field(max_length=1024)]
Percent = Annotated[str, Field(max_length=8, pattern=r"^[0-9]+(\.[0-9]+)?%$")]
Sha256 = Annotated[str, Field(max_length=64, pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=(1 << 53) - 1)]
"""Up to what a JSON reader holds exactly."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One CEL rule, checked by the API server (`x-kubernetes-validations`)."""

    rule: str
    message: str
    """What the user reads when it is broken."""


def rules(*held: Rule) -> dict[str, Any]:
    """`json_schema_extra` of a model or a field that the rules are about."""
    return {"x-kubernetes-validations": [{"rule": r.rule, "message": r.message} for r in held]}


def list_map(key: str) -> dict[str, Any]:
    """`json_schema_extra` of a list whose items are told apart by a field, so that several writers can share it."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


AS_SET: dict[str, Any] = {"x-kubernetes-list-type": "set"}


class Model(BaseModel):
    """An object of the API: camelCase outside, unknown fields ignored as the API server prunes them."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    def plain(self) -> dict[str, Any]:
        """As JSON has it, without what is not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class ConditionStatus(StrEnum):
    """Status of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Model):
    """One aspect of the object's present state."""

    type: Annotated[
        str,
        Field(
            max_length=316,
            pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
            r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
        ),
    ]
    """What is told of, in CamelCase."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    observed_generation: Count | None = None
    """The metadata.generation that this was said of."""
    last_transition_time: datetime
    """When the status last changed."""
    reason: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
    """Why, as one word for programs."""
    message: Annotated[str, Field(max_length=32768)]
    """Why, as a sentence for people."""


Conditions = Annotated[list[Condition], Field(max_length=16, json_schema_extra=list_map("type"))]


class LabelRequirement(Model):
    """One requirement on a label."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 "
                ": !has(self.values) || size(self.values) == 0",
                "values are required with the operators In and NotIn, and not allowed with Exists and DoesNotExist",
            )
        )
    )

    key: LabelKey
    """The label that the requirement is about."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How the label relates to the values."""
    values: Annotated[list[LabelValue], Field(max_length=32)] | None = None
    """Given with In and NotIn, absent with Exists and DoesNotExist."""


class LabelSelector(Model):
    """Selects by labels; all requirements must hold, and an empty selector selects everything."""

    match_labels: Labels | None = None
    """Labels and the values they must have."""
    match_expressions: Annotated[list[LabelRequirement], Field(max_length=16)] | None = None
    """Requirements on labels."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `kubectl get`."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False
    """Shown with `-o wide` only."""
    says: str = ""

    def plain(self) -> dict[str, Any]:
        """As `additionalPrinterColumns` has it."""
        made: dict[str, Any] = {"name": self.name, "type": self.type, "jsonPath": self.path}
        return made | ({"description": self.says} if self.says else {}) | ({"priority": 1} if self.wide else {})


AGE = Column("Age", ".metadata.creationTimestamp", "date")


def condition_column(kind: str, *, wide: bool = False) -> Column:
    """The status of one condition."""
    return Column(kind, f'.status.conditions[?(@.type=="{kind}")].status', wide=wide)


class Resource(Model):
    """A kind of the API; the subclass declares `spec`, `status` and these."""

    plural: ClassVar[str]
    short_names: ClassVar[tuple[str, ...]]
    namespaced: ClassVar[bool] = False
    columns: ClassVar[tuple[Column, ...]]

    @classmethod
    def path(cls, namespace: str | None = None) -> str:
        """Of the collection, on the API server."""
        inside = f"/namespaces/{namespace}" if cls.namespaced and namespace else ""
        return f"/apis/{GROUP}/{VERSION}{inside}/{cls.plural}"

    @classmethod
    def head(cls) -> dict[str, str]:
        """`apiVersion` and `kind` of a manifest."""
        return {"apiVersion": f"{GROUP}/{VERSION}", "kind": cls.__name__}


def whole_second(epoch_s: float) -> datetime:
    """A time as metav1.Time has it: UTC, in whole seconds."""
    return datetime.fromtimestamp(int(epoch_s), UTC)
