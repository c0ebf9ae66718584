"""Engines: implementations of a training step that are faster than its specification, the chain rule's own lines.

``native`` is for a processor: fused kernels in C (``kernels.c``), compiled at first use (``library``), several steps a
call. ``graph`` is for a CUDA device: the kernels of the lines themselves, captured as one graph. Both have the
interface of :class:`lean_mnist.nn.step.StepEngine`, which takes each step as it is written and does without them.
"""
