"""Readers of annotations, one file per dataset or format."""
