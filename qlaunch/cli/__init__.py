"""Verbs: the only room that prints, asks or exits."""
