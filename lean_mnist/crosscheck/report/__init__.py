"""Findings, each a verdict with its words and a diagnosis, and the reports that hold them."""

from lean_mnist.crosscheck.report.finding import (
    GRADCHECK,
    GRADIENT,
    OUTPUT,
    Finding,
    Severity,
    Verdict,
    failed,
    kink,
    not_applicable,
    note,
    passed,
)
from lean_mnist.crosscheck.report.reports import FunctionReport, ModuleReport, Report

__all__ = [
    "GRADCHECK",
    "GRADIENT",
    "OUTPUT",
    "Finding",
    "FunctionReport",
    "ModuleReport",
    "Report",
    "Severity",
    "Verdict",
    "failed",
    "kink",
    "not_applicable",
    "note",
    "passed",
]
