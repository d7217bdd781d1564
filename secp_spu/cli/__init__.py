"""The command line: parses and prints, and leaves everything else to the package."""
