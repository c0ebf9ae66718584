"""Making certificates: count the errors, bound the risk, write the document and its raw files."""
