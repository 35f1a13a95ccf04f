"""A module that declares no pass."""
