"""A checkpoint's network with its normalisation inside, in PyTorch's plain operations: raw pixels in, logits out.

Shapes: ``B`` batch, ``C`` classes, ``D = rows * columns`` input features.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lean_mnist.audit.reference import REFERENCE_ACTIVATIONS
from lean_mnist.training.checkpoints import Checkpoint


class PixelNetwork(nn.Module):
    """Logits (B, C) of raw pixels, uint8 (B, rows, columns), computed in ``dtype``, by default that of the weights.

    A quantised network has its rounded weights, and one in bfloat16 its weights in float32, which holds them exactly.
    """

    scale: Tensor

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        stored = next(checkpoint.model.parameters()).dtype
        self.dtype = dtype or (torch.float64 if stored == torch.float64 else torch.float32)
        self.activation, self.normalization = checkpoint.model.activation, checkpoint.normalization
        self.image_shape = checkpoint.image_shape
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for weight, bias in checkpoint.model.weights_and_biases():
            own = torch.zeros(len(weight), dtype=weight.dtype) if bias is None else bias
            self.weights.append(nn.Parameter(weight.detach().to(self.dtype), requires_grad=False))
            self.biases.append(nn.Parameter(own.detach().to(self.dtype), requires_grad=False))
        self.register_buffer("scale", torch.tensor(self.normalization.scale, dtype=self.dtype))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (B, C) of ``pixels`` (B, rows, columns)."""
        h_BD = self._features(pixels.flatten(1).to(self.dtype))
        for weight, bias in list(zip(self.weights, self.biases, strict=True))[:-1]:
            h_BD = REFERENCE_ACTIVATIONS[self.activation].value(F.linear(h_BD, weight, bias))
        return F.linear(h_BD, self.weights[-1], self.biases[-1])

    def _features(self, x_BD: Tensor) -> Tensor:
        if self.normalization.kind == "per-image":
            x_BD = x_BD - x_BD.mean(1, keepdim=True)
            deviation_B1 = x_BD.square().mean(1, keepdim=True).sqrt()
            x_BD = x_BD / torch.where(deviation_B1 == 0, 1.0, deviation_B1)
        else:
            x_BD = (x_BD - self.normalization.mean) / self.scale
        clip = self.normalization.clip
        return x_BD if clip is None else x_BD.clamp(-clip, clip)
