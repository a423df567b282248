"""Vocabulary and small tools that every other layer builds on."""
