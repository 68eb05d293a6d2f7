"""The HTTP extender: wire, watch, assumed pods, journal, telemetry, guard."""
