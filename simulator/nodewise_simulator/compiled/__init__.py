"""The compiled engine: worlds as flat arrays, the columns of `nodewise.core` fused into one kernel, all in numba."""
