"""What extender and operator share of Kubernetes: the connection, the informer, and from watches to `ClusterState`."""
