"""The method: scores, plan and surgery, for any family that has a table of named axes."""
