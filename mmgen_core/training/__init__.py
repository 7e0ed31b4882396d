"""Recipes of the bundled demo models: the data, the objectives, the loops. Plain torch."""
