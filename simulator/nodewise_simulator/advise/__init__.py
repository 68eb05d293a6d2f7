"""What better placement would have been worth: recorded arrivals played again with what was learned of run times.

A pod's own outcome alone ranks policies wrongly: where one pod goes decides what is left for those after it. So all of
them are placed again, in a simulated cluster, by each scheduler that is compared.
"""
