"""Policy training in the simulator and export to ONNX bundles: needs torch, which nothing that serves may import.

`ppo` learns from what `rollout` plays and `returns` credits, `runs` and `logs` keep how far it came, `export` writes
the bundle.
"""
