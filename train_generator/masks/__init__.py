"""Maskers of photographs, from a few masks that somebody drew."""
