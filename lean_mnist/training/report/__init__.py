"""The report of a run: one HTML page that needs nothing else."""

FILE = "report.html"  # in the run's folder
