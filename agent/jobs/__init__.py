"""Jobs that a page or a program starts at a server: commands of the command line, each in a process."""
