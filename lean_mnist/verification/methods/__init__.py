"""Ways to establish a statement: proofs for all sizes, exact fractions, comparisons in units of rounding."""
