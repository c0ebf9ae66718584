"""Questions in files: what ``check_function`` was asked, real calls of a training run, and names of functions."""
