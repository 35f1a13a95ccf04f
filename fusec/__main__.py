"""`python -m fusec` is the `fusec` command."""

from fusec.cli.main import main

if __name__ == "__main__":
    main()
