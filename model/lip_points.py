"""Which FaceMesh points the lip-sync judge looks at. Apart from it, so that cutting faces does not load torch."""

import numpy as np

_OUTER_LIP = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
_INNER_LIP = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
_CHIN = (149, 176, 148, 152, 377, 400, 378, 150, 379)
_EYE_CORNERS = (33, 133, 362, 263)
_NOSE = (168, 6, 197, 195, 5, 4)
_FOREHEAD = (10, 67, 109, 338, 297, 103, 332)
_TEMPLES = (54, 284, 127, 356, 162, 389, 21, 251)
SYNC_LANDMARKS = np.array(_OUTER_LIP + _INNER_LIP + _CHIN + _EYE_CORNERS + _NOSE + _FOREHEAD + _TEMPLES)
"""FaceMesh points that scoring needs: first the ones that speak, then the ones that show how the head moves."""
NUM_SPEAKING = len(_OUTER_LIP + _INNER_LIP + _CHIN)
