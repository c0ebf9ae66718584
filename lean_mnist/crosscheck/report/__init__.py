"""Findings, each a verdict with its words and a diagnosis, and the reports that hold them."""

from lean_mnist.crosscheck.report.finding import GRADCHECK as GRADCHECK
from lean_mnist.crosscheck.report.finding import GRADIENT as GRADIENT
from lean_mnist.crosscheck.report.finding import OUTPUT as OUTPUT
from lean_mnist.crosscheck.report.finding import Finding as Finding
from lean_mnist.crosscheck.report.finding import Severity as Severity
from lean_mnist.crosscheck.report.finding import Verdict as Verdict
from lean_mnist.crosscheck.report.finding import failed as failed
from lean_mnist.crosscheck.report.finding import kink as kink
from lean_mnist.crosscheck.report.finding import not_applicable as not_applicable
from lean_mnist.crosscheck.report.finding import note as note
from lean_mnist.crosscheck.report.finding import passed as passed
from lean_mnist.crosscheck.report.reports import FunctionReport as FunctionReport
from lean_mnist.crosscheck.report.reports import ModuleReport as ModuleReport
from lean_mnist.crosscheck.report.reports import Report as Report
