"""Search spaces: starter genomes, random members, and limits."""
