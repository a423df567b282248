"""The scalar that the outer loop lowers, for one learner."""
