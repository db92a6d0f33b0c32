"""Identification: from a clean and a distorted recording of the same performance to the device between them.

Aligns the two, and fits what a description of the device leaves open by least squares. May import `errors`, `version`,
`writing`, `sound`, `operators`, `figures` and `curves`; knows nothing of priors, sampling and restorations.
"""

from nldiff.identification.pairs import Identification, identify
