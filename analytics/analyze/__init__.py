"""`salon analyze`: the report's statistics on a table in a file."""
