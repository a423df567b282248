"""The inner loop: how a learner is trained on synthetic data, and how that training is differentiated."""
