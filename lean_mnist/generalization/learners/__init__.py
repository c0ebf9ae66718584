"""Perceptrons trained by one mistake after another, each with the size of its parameters in bits.

Everything is float32 and every sum runs in the stated order, so that a result is the same on every machine: a mistake
decided by the last bit of a sum changes all that is learnt after it.
"""
