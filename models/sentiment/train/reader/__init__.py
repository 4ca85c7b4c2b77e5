"""Training of a reader: a model that reads a headline as a whole, for each asset that it names, and its kind.

The text runs through the encoder once. The headline's score comes from the mean over its tokens, an asset's
from that mean beside the mean over the tokens that name the asset, and the kind of news from the first.
"""
