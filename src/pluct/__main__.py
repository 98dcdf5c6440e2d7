"""`python -m pluct` is `pluct`."""

from pluct.cli import main

main()
