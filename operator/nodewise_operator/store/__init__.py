"""What the operator keeps: pods and their fate, decisions, observations, nodes, and the times when it did not look."""
