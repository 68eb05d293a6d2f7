"""Policy training in the simulator and export to ONNX bundles.

Nothing stands here yet; the package exists so that the import rules of `pyproject.toml` guard it from its first line.
"""
