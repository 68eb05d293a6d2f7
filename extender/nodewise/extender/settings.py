"""What an operator of the extender can choose, by flag or by environment variable `NODEWISE_…`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from nodewise import policies
from nodewise.kube.placement import Mode


class ExtenderSettings(BaseSettings):
    """Settings of one extender process; the description of each is its `--help`."""

    model_config = SettingsConfigDict(env_prefix="NODEWISE_", frozen=True, extra="ignore", allow_inf_nan=False)

    host: str = Field("127.0.0.1", description="Address to listen on; beside the scheduler, loopback is enough.")
    port: int = Field(8888, ge=0, le=65535, description="Port that kube-scheduler calls; 0 takes a free one.")
    admin_host: str = Field(
        "", description="Address of probes, metrics and explanations; in a pod 0.0.0.0. Without it, that of --host."
    )
    admin_port: int = Field(8889, ge=0, le=65535, description="Port of probes, metrics and explanations.")
    kubeconfig: Path | None = Field(
        None, description="File that names the cluster; without it the pod's service account, then $KUBECONFIG."
    )
    policy: str | None = Field(
        None,
        description="Name of the rule that decides (see `nodewise policies`), or learned. Without it and a bundle: the "
        f"learned policy that is built in, if there is one, else {policies.DEFAULT.name}.",
    )
    bundle: Path | None = Field(
        None,
        description="Folder of a learned policy that decides. A new bundle that takes its place is served without a "
        "restart; one that is refused changes nothing.",
    )
    bundle_poll_s: float = Field(
        5.0,
        gt=0,
        description="Time between looks at that folder. A change is loaded once two looks have found the same files.",
    )
    bundles: Path | None = Field(
        None,
        description="Folder whose folders are bundles; a PlacementPolicy chooses one of them by name. Each is watched "
        "as that of --bundle is.",
    )
    default_mode: str = Field(
        Mode.ACTIVE.value,
        pattern=f"^({'|'.join(Mode)})$",
        description="Mode of pods that no PlacementPolicy selects: active, shadow (decide and say nothing), advise or "
        "off.",
    )
    journal: Path | None = Field(None, description="File to which every decision is appended as a line of JSON.")
    operator_url: str | None = Field(
        None, description="Where the operator listens, https://HOST:PORT; decisions go there and run times come back."
    )
    operator_token_file: Path | None = Field(
        None, description="File of the service-account token (audience nodewise-operator) that the operator asks for."
    )
    operator_ca_file: Path | None = Field(
        None, description="File of the certificates that the operator's must be signed by; without it the system's."
    )
    spool: Path | None = Field(
        None,
        description="Folder that keeps decisions until the operator has them; without it they wait in memory, and end "
        "with the extender.",
    )
    spool_mib: int = Field(64, gt=0, description="Size of that folder in MiB; when it is full the oldest go first.")
    scheduler_name: str = Field(
        "nodewise", description="Pods of this schedulerName are ours; others get no opinion. Empty: every pod is ours."
    )
    deadline_ms: float = Field(
        100.0,
        gt=0,
        description="Time a policy has; then the rule decides. Keep it well below kube-scheduler's own.",
    )
    stale_after_s: float = Field(
        120.0,
        gt=0,
        description="No opinion is given when nothing was heard from the API server for so long (it speaks each 60 s).",
    )
    assumed_ttl_s: float = Field(
        30.0,
        gt=0,
        description="How long a node is charged for a pod that was sent there and is not seen bound.",
    )
    max_body_bytes: int = Field(
        4 << 20, gt=0, description="Longer requests get no opinion; whole nodes (nodeCacheCapable: false) are long."
    )
    replay: bool = Field(
        False,
        description="Take the time from header X-Nodewise-Now (epoch seconds) and wait, at most 2 s, until the pod "
        "watch has seen the version in X-Nodewise-Resource-Version, so that cycles can be replayed exactly. "
        "Never in production.",
    )
    guard: bool = Field(True, description="Watch the server from a parent process that kills and restarts a hung one.")
    heartbeat_s: float = Field(0.1, gt=0, description="Time between the server's signs of life to the guard.")
    silence_s: float = Field(
        0.7,
        gt=0,
        description="The guard kills a server that is silent for longer than this. It bears twice as much after each "
        "such kill within a minute of a start, at most eight times.",
    )
    startup_silence_s: float = Field(
        30.0,
        gt=0,
        description="The same until the first lists are read: imports and large lists take their time.",
    )
