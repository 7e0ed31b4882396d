"""Conditions: what a model is told to draw."""
