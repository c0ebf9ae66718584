"""``torch.library.opcheck`` of operators registered with ``torch.library``: schema, fake kernel, autograd key.

It does not ask whether the gradient is right, only whether the operator is registered so that ``torch.compile`` and
``torch.export`` compute what eager code computes.
"""

import warnings

import torch

from lean_mnist.crosscheck.context import Context
from lean_mnist.crosscheck.report import Finding, Severity, failed, not_applicable, passed
from lean_mnist.crosscheck.rules import rule
from lean_mnist.crosscheck.subjects.calls import in_dtype, one_line
from lean_mnist.torch_internals import operator_of

COMPILED = "test_aot_dispatch_dynamic"  # outputs and gradients, compiled, against eager ones


@rule("opcheck", order=135, severity=Severity.WARNING, part=True)
def opcheck(ctx: Context) -> list[Finding]:
    """The failures of ``opcheck``; one of compiled gradients that no other explains is an error."""
    subject = ctx.subject
    operator = operator_of(subject.function)
    if operator is None:
        return [not_applicable("no operator registered with torch.library")]
    inputs = in_dtype(subject.inputs, None)
    for i in subject.checked:
        inputs[i] = inputs[i].clone().requires_grad_()
    given = inputs if subject.arguments is None else subject.arguments.nested(inputs)
    args, kwargs = ((), given) if isinstance(given, dict) else (tuple(given), {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = torch.library.opcheck(operator, args, kwargs, raise_exception=False)
    wrong = {test: error for test, error in results.items() if error != "SUCCESS"}
    alone = Severity.ERROR if list(wrong) == [COMPILED] else None
    findings = [failed(one_line(error, 200), test, severity=alone) for test, error in wrong.items()]
    return findings or [passed(", ".join(test.removeprefix("test_") for test in results))]
