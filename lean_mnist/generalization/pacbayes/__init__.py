"""PAC-Bayes: a Gaussian over networks, trained on a bound on its own risk, and certified.

``python -m lean_mnist.pacbayes`` runs all of it. What the certificate says: ``docs/certificates.md``.
"""
