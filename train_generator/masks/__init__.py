"""Maskers for photographs, trained on a few masks drawn by hand."""
