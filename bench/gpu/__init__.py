"""Everything that only a GPU can tell, as one command: `python -m bench.gpu`."""
