"""PAC-Bayes: a Gaussian over networks, trained on a bound on its own risk, and certified.

``python -m lean_mnist.pacbayes`` trains it (:mod:`lean_mnist.training.objectives.pac_bayes`) and certifies it; the
certificate is explained in ``docs/certificates.md``.
"""
