"""Tilings for devices whose workers are blocks of threads."""
