"""Probes and metrics of the operator."""

from __future__ import annotations

from typing import Protocol

from fastapi import FastAPI, Response


class Judged(Protocol):
    """What the probes ask."""

    def dead(self) -> str:
        """Why a restart is due; empty if it is not."""

    def unready(self) -> str:
        """Why it does not do its work now; empty if it does."""

    def metrics(self) -> bytes:
        """The Prometheus text format."""


def health_app(operator: Judged) -> FastAPI:
    """/healthz, /readyz and /metrics of one operator."""
    app = FastAPI(title="Nodewise operator", docs_url=None, redoc_url=None)

    @app.get("/healthz")
    async def healthz(response: Response) -> dict[str, str]:
        """Its parts run and its watches are not silent for too long."""
        reason = operator.dead()
        if reason:
            response.status_code = 503
        return {"status": reason or "ok"}

    @app.get("/readyz")
    async def readyz(response: Response) -> dict[str, str]:
        """It leads, the lists are read, and what it sees can be written."""
        reason = operator.unready()
        if reason:
            response.status_code = 503
        return {"status": reason or "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus text."""
        return Response(operator.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app
