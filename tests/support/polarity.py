"""Comparisons that let NaN pass: ``if bad: raise`` over numbers, where ``if not good: raise`` is asked for."""

from __future__ import annotations

import ast
from collections.abc import Iterator

_ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def wrong_polarity(source: str) -> list[str]:
    """Every comparison that has to be true for a ``raise`` and is false for NaN, as it is written.

    Those by order under no ``not``, and ``!=`` under one. Looked for in the condition of each ``if`` that raises, also
    through ``and``, ``or``, ``all``, ``any`` and conditional expressions.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If) and any(isinstance(statement, ast.Raise) for statement in node.body):
            found += [ast.unparse(comparison) for comparison in _comparisons(node.test, True)]
    return found


def _comparisons(node: ast.AST, needed: bool) -> Iterator[ast.Compare]:
    """Comparisons in ``node`` that are false for NaN where the ``raise`` needs them true, or the other way round."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield from _comparisons(node.operand, not needed)
    elif isinstance(node, ast.Compare):
        passes = _ORDER if needed else (ast.NotEq,)
        if any(isinstance(operator, passes) for operator in node.ops):
            yield node
    elif isinstance(node, ast.Call):
        for argument in node.args:
            yield from _comparisons(argument, needed)
    elif isinstance(node, (ast.GeneratorExp, ast.ListComp)):
        yield from _comparisons(node.elt, needed)
    elif isinstance(node, (ast.BoolOp, ast.IfExp)):
        for part in node.values if isinstance(node, ast.BoolOp) else (node.body, node.orelse):
            yield from _comparisons(part, needed)
