"""Small training sets that are not learned: what distilled data have to beat."""
