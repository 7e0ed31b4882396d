"""The command line's parts. Standard library only, so that a bare Python can set everything up."""
