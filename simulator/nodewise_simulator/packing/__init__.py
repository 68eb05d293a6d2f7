"""`openb-static`: GPU packing as the FGD paper published it, on Alibaba's GPU trace of 2023."""
