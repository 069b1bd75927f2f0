"""One thread for torch: tests compare bits, and run beside others on small machines."""

import torch

torch.set_num_threads(1)
