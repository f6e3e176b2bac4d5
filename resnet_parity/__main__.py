"""`python -m resnet_parity`."""

from resnet_parity.cli import main

if __name__ == "__main__":
    main()
