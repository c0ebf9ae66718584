"""One Function at many inputs: inputs written as text, and a table of sizes, dtypes and layouts."""
