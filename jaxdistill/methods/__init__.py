"""Published methods: recipes that compose teacher, learner, solve, objective and population."""
