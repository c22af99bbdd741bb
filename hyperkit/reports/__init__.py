"""What a run shows: tables of results, pictures, videos and curves. Parts are imported where they are used."""
