"""`python -m resnet_parity`."""

from resnet_parity.cli.app import main

if __name__ == "__main__":
    main()
