"""The study: teachers and gradients, distilled and scored alike."""
