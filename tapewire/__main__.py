"""`python -m tapewire` is the command `tapewire`."""

from tapewire import main

main()
