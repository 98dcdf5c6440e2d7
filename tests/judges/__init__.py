"""What others wrote, as judges of ours: run by hand with `make judge`, never by CI."""
