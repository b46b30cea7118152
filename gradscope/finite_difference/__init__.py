"""Finite differences against backward passes: behind ``gradscope.gradcheck``."""
