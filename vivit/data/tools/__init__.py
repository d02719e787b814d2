"""Check, prepare and generate datasets."""
