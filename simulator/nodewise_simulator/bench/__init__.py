"""What Nodewise costs: the extender beside the bare HTTP server, and the real kube-scheduler with and without it.

Everything that is compared is measured in the same run, in turn, and given as a ratio too: absolute times say more
about the machine and its other work than about the program.
"""
