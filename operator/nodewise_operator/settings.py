"""What an operator process can be told, by flag or by environment variable `NODEWISE_OPERATOR_…`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class OperatorSettings(BaseSettings):
    """Settings of one operator process; the description of each is its `--help`."""

    model_config = SettingsConfigDict(env_prefix="NODEWISE_OPERATOR_", frozen=True, extra="ignore", allow_inf_nan=False)

    store: str = Field(
        "nodewise.db",
        description="Where everything is recorded: a file (SQLite), or postgresql+pg8000://user:password@host/database.",
    )
    kubeconfig: Path | None = Field(
        None, description="File that names the cluster; without it the pod's service account, then $KUBECONFIG."
    )
    host: str = Field("127.0.0.1", description="Address of probes and metrics; in a pod 0.0.0.0.")
    port: int = Field(8890, ge=0, le=65535, description="Port of probes and metrics; 0 takes a free one.")
    source: str = Field(
        "kopf",
        pattern="^(kopf|informer)$",
        description="What watches pods and nodes: kopf, or our own informer, which syncs five times as fast with less "
        "memory and knows by itself what left while a watch was cut.",
    )
    census_s: float = Field(
        300.0, gt=0, description="Time between censuses, which find what left unseen. Source kopf only."
    )
    seen_every_s: float = Field(
        2.0, gt=0, description="How often it is written down that we are watching: a downtime begins at the last time."
    )
    batch_s: float = Field(0.2, gt=0, description="Longest time that a row waits to be written with others.")
    batch_rows: int = Field(500, gt=0, description="Rows that are written without waiting for more.")
    unknown_after_s: float = Field(
        30.0,
        gt=0,
        description="A pod that an extender told of and no watch has shown for so long came and went unseen.",
    )
    stale_after_s: float = Field(
        180.0,
        gt=0,
        description="Not alive when nothing was heard from the API server for so long; it speaks each 60 s.",
    )
    first_sync_s: float = Field(
        900.0, gt=0, description="Not alive when the first lists were not read after so long, while the store is there."
    )
    retain_days: float = Field(
        90.0,
        ge=0,
        description="Pods that were over for so long are deleted from the store with their decisions; 0 keeps all.",
    )
    policy: str | None = Field(
        None, description="Rule that scores bindings. Without it: the learned policy that is built in."
    )
    channel_host: str = Field("127.0.0.1", description="Address that extenders send decisions to; in a pod 0.0.0.0.")
    channel_port: int = Field(8891, ge=0, le=65535, description="Port that extenders send decisions to.")
    channel_cert: Path | None = Field(
        None, description="Certificate of that port, a PEM file; needed outside loopback. A new one is taken up."
    )
    channel_key: Path | None = Field(None, description="Key of that certificate, a PEM file.")
    channel_accounts: str = Field(
        "",
        description="Service accounts that extenders may come with, as namespace/name, separated by commas. The API "
        "server is asked about their tokens (audience nodewise-operator).",
    )
    channel_unauthenticated: bool = Field(
        False, description="Take decisions from anybody on this machine; possible on loopback only."
    )
    scheduler_name: str = Field(
        "", description="Pods that name this scheduler and wait are counted in the metrics; empty: they are not."
    )
    scheduler_lease: str = Field(
        "",
        description="Lease of that scheduler, as namespace/name: the metrics say whether it is held. Needs the right "
        "to get it.",
    )
    lease: bool = Field(False, description="Wait for a Lease before working, so that a second replica can stand by.")
    lease_name: str = Field("nodewise-operator", description="Name of the Lease.")
    lease_namespace: str = Field("nodewise-system", description="Namespace of the Lease.")
    lease_duration_s: float = Field(15.0, ge=1, description="How long a leader that is silent keeps the Lease.")
    identity: str = Field(
        "", description="Name of this replica, in the Lease and the store. Without it: host name and process id."
    )
