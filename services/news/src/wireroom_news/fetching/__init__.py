"""Getting documents from the internet without being led anywhere else."""
