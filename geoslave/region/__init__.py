"""Region jobs: many scenes, many blocks, resumed where they stopped."""
