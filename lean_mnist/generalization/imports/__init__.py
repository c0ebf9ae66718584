"""Networks trained elsewhere: read without running anything, and certified on data."""
