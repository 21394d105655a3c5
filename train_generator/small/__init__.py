"""The settings and steps that train generators."""
