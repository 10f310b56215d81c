"""One thread: tiny tensors are slower on two, and bit-identity across runs needs a fixed number."""

import torch

torch.set_num_threads(1)
