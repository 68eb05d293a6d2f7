"""Nodewise: a Kubernetes scheduler extender that learns where pods run best."""

__version__ = "0.1.0"
