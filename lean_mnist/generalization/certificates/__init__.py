"""Making certificates: count errors, bound the risk, write the document and its raw files."""
