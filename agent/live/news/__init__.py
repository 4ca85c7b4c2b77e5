"""Live headlines of RSS and Atom feeds."""
