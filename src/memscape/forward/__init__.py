"""The forward pass of every family in PyTorch's operators, and the life of each tensor from there to backward."""
