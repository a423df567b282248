"""The arithmetic that learners and teachers share: convolution, pooling, norms, initial weights."""
