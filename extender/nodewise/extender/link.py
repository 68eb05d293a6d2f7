"""What an extender has of the channel to the operator: a spool, a follower, and the client that serves both."""

from __future__ import annotations

import sys
from functools import partial

from nodewise.channel.client import Client
from nodewise.channel.endpoint import Endpoint
from nodewise.channel.follower import Follower
from nodewise.channel.spool import Spool
from nodewise.core.errors import UserError
from nodewise.core.state import ClusterState
from nodewise.extender.service import Service
from nodewise.extender.settings import ExtenderSettings

_SWITCH_S = 0.001
"""After so long a thread that reads what the operator told lets the event loop go on; Python's default is 5 ms."""


class Link:
    """Made before the service, whose journal fills `spool`; from `follow` on the operator's log teaches."""

    def __init__(self, settings: ExtenderSettings, state: ClusterState) -> None:
        """Raises UserError for settings that cannot work."""
        self.operator = Endpoint(settings.operator_url or "", settings.operator_token_file, settings.operator_ca_file)
        self.spool = Spool(settings.spool, settings.spool_mib << 20)
        self.follower = Follower(state.estimator, replaced=partial(setattr, state, "estimator"))
        state.learn = self.follower.learn

    async def run(self, service: Service) -> None:
        """Serve for ever."""
        client = Client(self.operator, self.spool, self.follower, lambda: service.report(self.spool.extender))
        gauge, spool, follower = service.telemetry.gauge, self.spool, self.follower
        gauge("spool_bytes", "Size of what waits for the operator", lambda: spool.size)
        gauge("spool_segments", "Segments that wait for the operator", lambda: spool.segments)
        gauge("spool_dropped", "Decisions that the operator will never get", lambda: spool.dropped)
        gauge("uploaded", "Decisions that the operator has", lambda: client.uploaded)
        gauge("operator_age_seconds", "Time since the operator was heard", lambda: follower.age_s)
        gauge("predictor_revision", "Observations that the operator has told of", lambda: follower.revision)
        gauge("predictor_own", "Observations that the operator has not told of", lambda: follower.own)
        sys.setswitchinterval(_SWITCH_S)
        await client.run()


def link(settings: ExtenderSettings, state: ClusterState) -> Link | None:
    """The link that was asked for, if one was. Raises UserError for files that are not there."""
    if not settings.operator_url:
        return None
    for flag, file in (
        ("--operator-token-file", settings.operator_token_file),
        ("--operator-ca-file", settings.operator_ca_file),
    ):
        if file is not None and not file.is_file():
            raise UserError(f"{flag} {file} does not exist: name the file that is mounted, or leave the flag out")
    return Link(settings, state)
