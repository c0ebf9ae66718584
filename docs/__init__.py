"""The documentation, and the generator of the pages that follow the code."""
