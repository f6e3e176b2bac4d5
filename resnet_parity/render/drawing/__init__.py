"""Nets drawn as a paper's figure draws them, from the plan alone."""

from resnet_parity.render.drawing.canvas import STYLE as STYLE
from resnet_parity.render.drawing.page import Drawn as Drawn
from resnet_parity.render.drawing.page import compare as compare
from resnet_parity.render.drawing.page import draw as draw
