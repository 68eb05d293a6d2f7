"""The operator: watches a cluster, records every pod's fate, learns its nodes. `operator/README.md` tells the rest."""
