"""Attacks on what the library promises; tests/attack.py runs them."""
