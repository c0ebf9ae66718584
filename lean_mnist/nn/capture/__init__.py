"""The engine that captures a step once and replays it without Python in between; see ``capture.engine``.

On a processor the kernels that PyTorch runs are noted and called again, on a CUDA device they are one graph
(``capture.kernels``).
"""
