"""Versioned documents: how they are parsed, stored, compiled and served."""
