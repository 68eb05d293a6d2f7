"""The second port: probes, metrics, explanations."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI, Response

from nodewise.extender.bundle_watch import BundleWatch
from nodewise.extender.explain import explain
from nodewise.extender.placement_watch import PlacementWatch
from nodewise.extender.records import Record
from nodewise.extender.service import Service
from nodewise.policies.learned import LearnedPolicy


def admin_app(service: Service, watch: BundleWatch | None = None, placement: PlacementWatch | None = None) -> FastAPI:
    """The admin endpoints of one extender; `watch` is there if it serves a bundle from a folder."""
    app = FastAPI(title="Nodewise extender", docs_url="/docs", redoc_url=None)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz(response: Response) -> dict[str, str]:
        """The caches are filled and fresh; a bundle's golden vectors were checked before we listened at all."""
        reason = service.unready()
        if reason:
            response.status_code = 503
        told = placement.says() if placement else {}
        return {"status": reason or "ok", "policy": service.policy.name, "digest": service.policy.digest} | told

    @app.get("/policy")
    async def policy() -> dict[str, Any]:
        """What decides, the folder that a new bundle is expected in, and why what should decide is refused, if so.

        And the same for each PlacementPolicy, the one that is asked first in front, with what it has done.
        """
        order = [told.name for told in service.modes.policies]
        reports = sorted(service.courses.reports(), key=lambda report: order.index(report.name))
        return {
            "name": service.policy.name,
            "digest": service.policy.digest,
            "bundle": str(watch.folder) if watch else None,
            "refused": service.refused or None,
            "default_mode": service.modes.default.value,
            "placement_policies": [msgspec.to_builtins(report) for report in reports],
        }

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus text."""
        return Response(service.telemetry.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/explain/{namespace}/{pod}")
    async def explain_pod(namespace: str, pod: str) -> Response:
        """Why the pod went where it went."""
        record = service.records.find(namespace, pod)
        if record is None:
            return _json({"error": _not_asked(service, namespace, pod)}, 404)
        told = explain(
            record.decision,
            record.view,
            record.names,
            record.bound,
            _columns(service, record),
            record.mode,
            record.placement_policy,
            record.passed_over,
        )
        return _json(told | {"time_s": record.time_s, "latency_us": record.latency_us})

    return app


def _columns(service: Service, record: Record) -> tuple[str, ...]:
    """What was looked at, if what decided still decides."""
    course = service.courses.get(record.placement_policy)
    policy = course.asker.policy if course else service.policy
    if not isinstance(policy, LearnedPolicy) or record.decision.digest != policy.digest:
        return ()
    return policy.card.column_names


def _not_asked(service: Service, namespace: str, pod: str) -> str:
    made = len(service.records)
    return (
        f"nothing is known of pod {namespace}/{pod}: it is in none of the {made:,} decisions that are remembered since "
        "this extender started; the scheduler does not ask about a pod with one feasible node or another schedulerName"
    )


def _json(content: dict[str, Any], status: int = 200) -> Response:
    # msgspec writes nan and inf, which JSON has not, as null
    return Response(msgspec.json.encode(content), status, media_type="application/json")
