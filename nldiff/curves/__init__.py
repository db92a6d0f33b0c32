"""Transfer curves as objects to keep: called, inverted, drawn, saved, applied to other audio, exported.

May import `errors`, `writing`, `sound`, `operators` and `figures`, and knows nothing of how curves are found.
"""

from nldiff.curves.curve import Curve
