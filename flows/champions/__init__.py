"""Champions: who holds the place on what evidence, and how MLflow shows it as a registered model."""
