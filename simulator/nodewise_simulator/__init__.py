"""Offline cluster simulator that behaves like kube-scheduler: engine, driver, scenarios, metrics."""
