"""What holds for every test: one thread a process, because the test runner already uses every core."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # also of the commands that tests start

import torch

torch.set_num_threads(1)
