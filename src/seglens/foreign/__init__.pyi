from .tensors import read_weights as read_weights
