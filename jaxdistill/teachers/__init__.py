"""What is learned, and how it yields the batches of the inner loop."""
