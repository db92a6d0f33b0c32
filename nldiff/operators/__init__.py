"""Operators: what maps clean to observed audio.

Learnable waveshapers, known distortions with their calibration and text form, tables, and chains of all of them, under
one contract (`Operator`). May import `errors`, `reading` and `writing`; knows nothing of sampling and priors.
"""

from nldiff.operators.calibration import calibrate, estimate_input_rms, input_sdr
from nldiff.operators.known import DISTORTIONS, Distortion
from nldiff.operators.operator import AtRate, Chain, Identity, Operator, Rescaled
from nldiff.operators.recipes import Recipe, parse_operator
from nldiff.operators.saved import load_operator, save_operator
from nldiff.operators.table import TabulatedCurve
from nldiff.operators.waveshapers import WAVESHAPERS, Waveshaper, make_waveshaper
from nldiff.operators.wiener_hammerstein import LEARNABLE, Learnable, WienerHammerstein, make_learnable
