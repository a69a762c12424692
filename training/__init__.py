"""What a candidate is worth: networks, data, recipes and isolated training. Its files import torch; this one does not."""
