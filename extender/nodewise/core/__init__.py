"""The contract between every part of Nodewise: types, units, columns, estimator, cost, decision, reply.

Pure: numpy and the standard library only; no clock, no files, no HTTP, no Kubernetes client.
"""
