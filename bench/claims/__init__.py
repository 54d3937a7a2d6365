"""Claims of papers and of articles, each with a verdict that a rule gives from rows; trains nothing."""
