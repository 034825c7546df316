"""The ground floor: checks, directions, extras, and all that knows jax's insides."""
