"""The scheduler's configuration: our profile around the extender, or the stock one."""

from pathlib import Path
from typing import Any

from nodewise_simulator.scheduler import EXTENDER_WEIGHT, PREFERENCE_WEIGHT

Json = dict[str, Any]

PREFERENCE_PLUGINS = ("NodeAffinity", "InterPodAffinity", "TaintToleration", "PodTopologySpread")
"""The plugins that score what somebody wrote: preferred affinities, PreferNoSchedule taints, ScheduleAnyway spread."""

REQUESTS_PER_S = 5000
"""The default of 50 (burst 100) caps binding at about 50 pods a second, and would hide what is measured here."""


def scheduler_config(
    kubeconfig: Path | str,
    extender_url: str | None,
    *,
    scheduler_name: str = "nodewise",
    weight: int = EXTENDER_WEIGHT,
    timeout_ms: int = 250,
    stock: bool = False,
    percentage_of_nodes_to_score: int | None = None,
    filters: bool = False,
    backoff_s: tuple[int, int] | None = None,
) -> Json:
    """KubeSchedulerConfiguration v1 for one process with one profile.

    `extender_url` is the prefix: requests go to `{extender_url}/prioritize`; None configures no extender. `stock`
    keeps the weights and the default spreading that kube-scheduler ships. `percentage_of_nodes_to_score` 100 shows
    every feasible node to the extender; None leaves kube-scheduler's formula (all below 100 nodes, 42 % of 1,000, 10
    % of 5,000). An extender that hangs costs `timeout_ms` for every pod: the scheduler has no breaker, and its own
    default is 5 s. With `filters` it is asked which nodes may be taken, too; `backoff_s` are the first and the longest
    pause before a pod without a node is tried again (1 and 10 if None).
    """
    profile: Json = {"schedulerName": scheduler_name}
    if not stock:
        profile["plugins"] = {
            "score": {"enabled": [{"name": name, "weight": PREFERENCE_WEIGHT} for name in PREFERENCE_PLUGINS]}
        }
        # Nobody wrote the built-in default spreading, but at this weight it would outvote us for every replica.
        spread = {"defaultingType": "List", "defaultConstraints": []}
        profile["pluginConfig"] = [{"name": "PodTopologySpread", "args": spread}]
    config: Json = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},  # one process; an election only delays its start
        "clientConnection": {"kubeconfig": str(kubeconfig), "qps": REQUESTS_PER_S, "burst": REQUESTS_PER_S},
        "profiles": [profile],
    }
    if percentage_of_nodes_to_score is not None:
        config["percentageOfNodesToScore"] = percentage_of_nodes_to_score
    if extender_url is not None:
        config["extenders"] = [
            _extender(extender_url, weight, timeout_ms) | ({"filterVerb": "filter"} if filters else {})
        ]
    if backoff_s is not None:
        config["podInitialBackoffSeconds"], config["podMaxBackoffSeconds"] = backoff_s
    return config


def _extender(url: str, weight: int, timeout_ms: int) -> Json:
    return {
        "urlPrefix": url,
        "prioritizeVerb": "prioritize",  # the only verb whose errors never block a pod
        "weight": weight,
        "nodeCacheCapable": True,  # names only: whole nodes are some 17 KB each and cost more than the decision
        "ignorable": True,
        "httpTimeout": f"{timeout_ms}ms",
    }
