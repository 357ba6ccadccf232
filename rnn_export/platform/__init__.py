"""Operating system, files, processes, threads, and text for terminals and pages: below everything else."""
