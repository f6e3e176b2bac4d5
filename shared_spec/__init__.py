"""What a ResNet is: spec, catalogue, plan and canonical weights. Imports no framework."""

import lazy_loader

# From the stub beside this file, each when it is first used: a command that reads no file of
# weights loads nothing that could.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
