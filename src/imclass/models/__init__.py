"""Networks, their assembly and their file."""
