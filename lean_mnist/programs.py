"""``python -m lean_mnist.programs``: run through every outcome of small experiments and see the bounds hold."""

import json
import sys
from dataclasses import dataclass

from lean_mnist.command_line import parse, run_command


@dataclass(frozen=True)
class ProgramsArguments:
    """Compute the exact probability that a bound fails, over all data sets of a small experiment.

    Inputs are uniform and their labels coins, so that nothing can be learnt; what is learnt is the label seen most
    often with each input. A is the accuracy on all data, Â that on the examples.
    """

    inputs: int = 3
    """Different inputs; there are 2^inputs hypotheses."""
    ones: str = "1/2"
    """Probability of label 1, exact, as 0.3 or 1/3."""
    examples: int = 5
    """Examples to learn from."""
    fresh: int = 4
    """Further examples, that nothing is learnt from."""
    epsilon: str = "0.48"
    """By how much Â may exceed A."""
    bound_examples: int = 50
    """Examples from which each bound on the risk is computed."""
    delta: str = "0.035"
    """Failure probability that these bounds promise."""
    json: bool = False
    """Print one JSON document."""


def main() -> None:
    """Read the command line, enumerate, print the table or the document; status 1 if a theorem fails."""
    arguments = parse(ProgramsArguments, sys.argv[1:], prog="python -m lean_mnist.programs")
    from lean_mnist.generalization import programs
    from lean_mnist.generalization.exact import exact

    epsilon, inputs = exact(arguments.epsilon, "--epsilon"), arguments.inputs
    experiment = programs.majority_experiment(inputs, exact(arguments.ones, "--ones"))
    theorems = programs.enumerate_theorems(experiment, inputs, arguments.examples, arguments.fresh, epsilon)
    bounds = programs.enumerate_bounds(arguments.bound_examples, arguments.delta)
    if arguments.json:
        found = {"theorems": theorems, "bounds": bounds}
        print(json.dumps({name: [claim.to_dict() for claim in claims] for name, claims in found.items()}, indent=2))
    else:
        print(f"{f'Pr[A + {arguments.epsilon} < Â], over all data sets':<64} exactly   at most")
        print(*theorems, sep="\n")
        print(f"\n{'Pr[bound < risk], over all counts of errors':<64} exactly   at most")
        print(*bounds, sep="\n")
    if any(claim.theorem and not claim.holds for claim in theorems + bounds):
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
