"""`kubectl nodewise …`: what Nodewise does in a cluster, asked through the cluster's own API server."""
