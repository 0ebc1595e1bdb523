"""What went wrong, once more: dead letters back into the log, a spool without its gateway, the log into new tables."""
