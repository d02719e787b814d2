"""Check, prepare and write whole data sets."""
