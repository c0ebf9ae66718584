"""Training steps as they were computed: every link of one computed again, and what is wrong where one does not hold.

``record`` says what is known of a step, ``recorded`` puts it together from a model; ``links`` computes each link again,
with ``rounding`` saying how far it may be off; ``diagnosis`` explains the first that is broken, also by what
``elsewhere`` computed; ``bundle`` keeps a failed step in a file and asks it again.
"""
