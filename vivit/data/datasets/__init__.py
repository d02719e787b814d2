"""Readers of annotations, one data set or format each."""
