"""What every command uses: `options`, `tracking` (MLflow), `progress`, `cluster` (Ray)."""
