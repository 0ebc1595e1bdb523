"""Events to tables to numbers to a decision. Owns the words of an experiment; knows nothing of gateway, serving or finetune."""
