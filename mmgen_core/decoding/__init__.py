"""Engines that turn a condition into image tokens."""
