"""What the results mean: statistics, scaling fits, tables, figures, one page. Imports no torch."""
