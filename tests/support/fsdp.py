"""Conditions under which FSDP2 can be tested."""

import pytest
import torch

FSDP2_ON_CPU = pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason="this PyTorch's FSDP2 (2.6's) does not run on a CPU"
)
