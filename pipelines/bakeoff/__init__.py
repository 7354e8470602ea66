"""Compare tensor formats at equal numbers of parameters: search, seeds, table and figure."""
