"""The report of an experiment: built once, read as JSON, text or a page."""
