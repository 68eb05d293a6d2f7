"""The kopf operator: node knowledge, pod outcomes, advice, retraining and rollout.

Nothing stands here yet; the package exists so that the import rules of `pyproject.toml` guard it from its first line.
"""
