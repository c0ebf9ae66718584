"""The chain rule, written once: each operation's forward beside its backward, the formula above it.

Nothing here knows what it is run on. The same functions run on torch tensors of any floating dtype (the trainer,
``gradcheck``), on NumPy object arrays of ``fractions.Fraction`` (exact checks) and of SymPy expressions (symbolic
checks); :mod:`lean_mnist.chainrule.arrays` holds the handful of primitives that differ between them.

Shapes, throughout: ``B`` batch, ``D`` input features, ``H`` hidden units, ``C`` classes; ``x_BD`` is an array of shape
``(B, D)``. A variable named ``d_z`` is the gradient of the loss with respect to ``z``; a backward's argument of that
name is the upstream gradient. Every forward returns its result and a *tape* of values that it computed, which its
backward needs; a network's also has those that only checks read.
"""
